"""What a training stage leaves behind: final.pt, metrics.json, and what describes it to the tracker.

results/<name>/<model>/<stage>/final.pt          the weights (v4d.models.checkpoint)
results/<name>/<model>/<stage>/metrics.json      a row an epoch, the best one, cost, hardware
results/<name>/<model>/<stage>/environment.txt   hardware, commit and packages
"""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from v4d import config as configs
from v4d.checkpoints import described
from v4d.config import Config, ModelConfig, StageConfig
from v4d.models import gmac, parameter_count
from v4d.models.base import VideoModel
from v4d.models.checkpoint import save_model
from v4d.tracking import Tracker, open_tracker
from v4d.training.step import TrainState
from v4d.utils.files import write_json, write_text
from v4d.utils.provenance import git_sha, hardware, packages


@dataclasses.dataclass(frozen=True)
class StageOutputs:
    """Writes and logs the outputs of one stage; for rank 0."""

    config: Config
    """The whole config."""
    model: ModelConfig
    """The trained model's part of it."""
    stage: StageConfig
    """The stage."""
    identity: dict[str, Any]
    """What the weights are for: "architecture" (of `create_model`), "classes", "dataset" (fingerprint)."""
    dataset: dict[str, Any]
    """The content of dataset.json."""

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return self.config.paths.stage(self.model.name, self.stage.name)

    def info(self) -> dict[str, Any]:
        """What a file of weights says of its origin; see `LoadedModel.info`."""
        return {
            "stage": configs.plain(self.stage),
            "dataset": self.dataset["name"],
            "dataset_fingerprint": self.dataset["fingerprint"],
            "config_sha": configs.config_sha(self.config),
            **{key: self.config.document[key] for key in ("clips", "frames")},
            "testing": configs.plain(self.config.testing),
            "git_sha": git_sha(),
            "seed": self.config.seed,
        }

    def open_tracker(self, network: VideoModel, settings: dict[str, Any]) -> Tracker:
        """The model's run, with what describes this stage: tags, `settings`, data set, environment."""
        name, stage = self.model.name, self.stage.name
        tracker = open_tracker(self.config, self.config.run_name(name), stage=stage)
        origin = self.info()
        tags = {key: origin[key] for key in ("git_sha", "dataset_fingerprint", "config_sha")}
        tracker.set_tags(tags | described(network))
        tracker.log_params({f"{stage}/{key}": value for key, value in _flat(settings).items()})
        tracker.log_dataset(self.dataset)
        notes = self.folder / "environment.txt"
        write_text(notes, f"{hardware()}\ngit {git_sha() or 'none'}\n\n{packages()}")
        tracker.log_artifact(notes, stage)
        tracker.log_artifact(configs.write_resolved(self.config))
        if self.config.tracking.system_metrics:
            tracker.start_system_metrics()
        return tracker

    def write(self, network: VideoModel, state: TrainState, tracker: Tracker, processes: int) -> None:
        """Write final.pt and metrics.json, and hand them to the tracker."""
        name, stage = self.model.name, self.stage.name
        weights = self.config.paths.final_weights(name, stage)
        kind = {key: self.identity[key] for key in ("architecture", "classes")}
        save_model(weights, network, **kind, info=self.info() | {"mlflow_run_id": tracker.run_id})
        crop = self.stage.training.crop.size
        numbers = {
            "stage": stage,
            "epochs": state.history,
            "best": state.best,
            "parameters": parameter_count(network),
            "gmac": round(gmac(network, self.stage.units, self.stage.frames, crop, crop), 4),
            "seconds": round(state.seconds, 1),
            "processes": processes,
            "hardware": hardware(),
            "mlflow_run_id": tracker.run_id,
            "git_sha": git_sha(),
            "torch": str(torch.__version__),
            "dataset_fingerprint": self.dataset["fingerprint"],
        }
        metrics = self.config.paths.training_metrics(name, stage)
        write_json(metrics, numbers)
        last, best = state.history[-1], state.best
        best_weights, run = self.config.paths.best_weights(name, stage), self.config.run_name(name)
        print(
            f"{run} {stage}: top-1 {last['val/top1']:.1f} % after epoch {state.epoch}, in {weights}; "
            f"best {best['val/top1']:.1f} % in epoch {best['epoch']}, in {best_weights}",
            flush=True,
        )
        tracker.log_artifact(metrics, stage)
        tracker.log_artifact(weights, stage)
        if self.stage is self.model.final and self.config.tracking.log_model:
            tracker.log_model(weights)


def _flat(mapping: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
