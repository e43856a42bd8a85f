"""One training stage of a model, from the data set to `final.pt`: builds, resumes, runs, records."""

import dataclasses
import functools
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from v4d import config as configs
from v4d.config import Config, StageConfig
from v4d.data.index import class_names, dataset_info, records
from v4d.data.loader import Loader
from v4d.distributed.group import DistributedContext, any_rank, barrier
from v4d.models import create_model, freeze, gmac, parameter_count
from v4d.models.checkpoint import save_model
from v4d.models.v4d import VideoNet
from v4d.tracking import Tracker, forget_stages, open_tracker
from v4d.training.checkpoint import CheckpointManager, check_identity
from v4d.training.init_weights import initial_weights, load_initial, weights_digest
from v4d.training.inputs import check_data, steps_an_epoch, training_batches, validation_batches
from v4d.training.metric_logger import Reporter
from v4d.training.precise_bn import measure_statistics
from v4d.training.step import Diverged, Preempted, StopSignal, TrainState, TrainStep, train_epoch
from v4d.training.validation import validate
from v4d.utils.files import write_json, write_text
from v4d.utils.provenance import git_sha, hardware, packages


class Trainer:
    """Holds what one rank needs; `run` does the work."""

    def __init__(self, config: Config, model_name: str, stage_name: str, ranks: DistributedContext):
        self.config, self.ranks = config, ranks
        self.model_config = config.model(model_name)
        self.stage = self.model_config.stage(stage_name)
        self.settings = self.stage.training
        self.folder = config.results / model_name / stage_name
        self.classes = class_names(config)
        self.dataset = dataset_info(config)
        self.train_videos = records(config, self.settings.split)
        self.val_videos = records(config, self.settings.val_split)
        check_data(self.stage, self.train_videos, self.classes, ranks.size)
        self.checkpoints = CheckpointManager(self.folder / "checkpoints", self.settings.keep_checkpoints)
        self.identity = {
            "architecture": architecture(self.stage, len(self.classes)),
            "classes": self.classes,
            "dataset": self.dataset["fingerprint"],
        }
        earlier = self.model_config.stages[: self.model_config.stages.index(self.stage)]
        self.earlier_stages = [stage.name for stage in earlier]
        # Where this stage's curves begin: behind those of the stages before it.
        self.epoch_offset = sum(stage.training.epochs for stage in earlier)
        self.step_offset = sum(stage.training.epochs * steps_an_epoch(config, stage) for stage in earlier)

    def run(self) -> None:
        """Train to the end and write `final.pt` and `metrics.json`.

        Raises:
            Preempted: a signal asked to stop; the state is saved.
            V4DError: what the user can mend.
        """
        with self.checkpoints.locked() if self.ranks.is_main else nullcontext():
            state = self._resumable_state()
            torch.manual_seed(self.config.seed)
            model = self._model(fresh=state is None)
            learner = TrainStep(model, self.stage, self.ranks, self.config.seed)
            position = TrainState()
            if state is not None:
                learner.load_state(state)
                position = TrainState(**state["position"])
            with self._tracker() as tracker:
                reporter = Reporter(self, tracker, position)
                self._train(learner, position, reporter)
                if self.ranks.is_main:
                    self._finish(learner, position, tracker)
            barrier(self.ranks)

    def _resumable_state(self) -> dict[str, Any] | None:
        """The last checkpoint, if it belongs to this training; one with other settings is set aside."""
        if self.ranks.is_main:
            state = self.checkpoints.load()
            if state is not None:
                check_identity(state, self.identity, self.checkpoints.folder)
                if state["settings"] != self._settings():
                    self._set_aside(state)
        barrier(self.ranks)
        return self.checkpoints.load()

    def _set_aside(self, state: dict[str, Any]) -> None:
        changed = [k for k, v in self._settings().items() if state["settings"].get(k) != v]
        with self.checkpoints.set_aside(configs.sha(state["settings"])[:8]) as aside:
            forget_stages(self.state_file, set(self.earlier_stages), aside)
        print(f"settings have changed ({', '.join(changed)}): trains anew, the old state is in {aside}")

    def _settings(self) -> dict[str, Any]:
        """Every setting that changes the weights; how many workers load and how often is logged do not."""
        chosen = configs.settings(configs.plain(self.stage), type(self.stage))
        training = chosen.pop("training")
        return chosen | training | {"seed": self.config.seed} | self._initial_digest

    @functools.cached_property
    def _initial_digest(self) -> dict[str, str]:
        """Where the stage before was trained anew, or a file replaced, this stage starts anew too."""
        source = initial_weights(self.config, self.model_config, self.stage)
        return {"initial_weights": weights_digest(source)} if isinstance(source, Path) else {}

    @property
    def state_file(self) -> Path:
        return self.folder.parent / "mlflow_run.json"

    def _model(self, fresh: bool) -> VideoNet:
        model = create_model(**self.identity["architecture"])
        if fresh:
            self._initialise(model)
        for what in self.stage.freeze:
            freeze(model, what)
        return model.to(self.ranks.device)

    def _initialise(self, model: VideoNet) -> None:
        source = initial_weights(self.config, self.model_config, self.stage)
        if source == "scratch":
            return
        new = load_initial(model, source, self.classes)
        if self.ranks.is_main:
            print(f"starts from {source}" + (f"; new: {new}" if new else ""), flush=True)

    def _train(self, learner: TrainStep, position: TrainState, reporter: "Reporter") -> None:
        stop = StopSignal()
        loader = self._train_loader()
        validation = validation_batches(self.stage, self.val_videos, self.ranks)
        if position.epoch < self.settings.epochs:
            reporter.started(learner.model, position)
        while position.epoch < self.settings.epochs:
            self._train_one_epoch(learner, loader, position, stop, reporter)
            model = self._validated_model(learner)
            if self.settings.precise_bn_videos:
                batches = -(
                    -self.settings.precise_bn_videos * self.settings.accumulate // self.settings.batch_size
                )
                measure_statistics(model, self._train_loader(), self.ranks, batches)
                if learner.average is not None:  # what is validated is what is kept
                    learner.average.take(model)
            numbers = validate(model, validation, self.ranks, len(self.val_videos), self.settings.precision)
            best = numbers["val/top1"] > position.best.get("val/top1", -1.0)
            if best:
                position.best = {"epoch": position.epoch + 1, "val/top1": numbers["val/top1"]}
            reporter.epoch_ended(position, numbers, loader, learner)
            position.epoch += 1
            position.step, position.sums = 0, [0.0] * 4
            if self.ranks.is_main:
                self.checkpoints.save(self._state(learner, position), end_of_epoch=True, best=best)
            if any_rank(self.ranks, stop.received) and position.epoch < self.settings.epochs:
                raise Preempted

    def _train_loader(self) -> Loader:
        return training_batches(self.stage, self.train_videos, self.ranks, self.config.seed)

    def _train_one_epoch(
        self,
        learner: TrainStep,
        loader: Loader,
        position: TrainState,
        stop: StopSignal,
        reporter: "Reporter",
    ) -> None:
        learner.model.train()
        saved = time.monotonic()
        try:
            for steps, totals, stops in train_epoch(
                learner, loader, position, self.settings.accumulate, stop
            ):
                position.sums = [a + b for a, b in zip(position.sums, totals, strict=True)]
                reporter.steps_done(position, steps, totals, loader, learner)
                minutes = (time.monotonic() - saved) / 60
                # Behind the last step too: the validation may take long.
                if self.ranks.is_main and (stops or minutes >= self.settings.checkpoint_minutes):
                    state = self._state(learner, position)
                    self.checkpoints.save(state, end_of_epoch=False, best=False)
                    saved = time.monotonic()
                if stops:
                    barrier(self.ranks)
                    raise Preempted
        except Diverged as error:
            if self.ranks.is_main:
                where = self.checkpoints.save_debug(self._state(learner, position))
                barrier(self.ranks)
                raise Diverged(f"{error}; the state is in {where}") from error
            barrier(self.ranks)
            raise

    def _validated_model(self, learner: TrainStep) -> VideoNet:
        """The network itself, or one with the averaged weights."""
        if learner.average is None:
            return learner.model
        model = create_model(**self.identity["architecture"]).to(self.ranks.device)
        model.load_state_dict(learner.average.state)
        return model

    def _state(self, learner: TrainStep, position: TrainState) -> dict[str, Any]:
        return {
            **learner.state(),
            "position": configs.plain(dataclasses.asdict(position)),
            "epoch": position.epoch,
            "identity": self.identity,
            "settings": self._settings(),
            "info": self._info(),
            "world_size": self.ranks.size,
            "torch": str(torch.__version__),
        }

    def _info(self) -> dict[str, Any]:
        """What a file of weights says of its origin."""
        return {
            "stage": configs.plain(self.stage),
            "dataset": self.dataset["name"],
            "dataset_fingerprint": self.dataset["fingerprint"],
            "config_sha": configs.config_sha(self.config),
            "clips": self.config.document["clips"],
            "frames": self.config.document["frames"],
            "testing": self.config.document["testing"],
            "git_sha": git_sha(),
            "seed": self.config.seed,
        }

    def _finish(self, learner: TrainStep, position: TrainState, tracker: Tracker) -> None:
        """Write the stage's outputs and hand them to the tracker."""
        model = self._validated_model(learner).eval()
        crop = self.settings.crop.size
        save_model(
            self.folder / "final.pt",
            model,
            architecture=self.identity["architecture"],
            classes=self.classes,
            info=self._info() | {"mlflow_run_id": tracker.run_id},
        )
        numbers = {
            "stage": self.stage.name,
            "epochs": position.history,
            "best": position.best,
            "parameters": parameter_count(model),
            "gmac": round(gmac(model, self.stage.units, self.stage.frames, crop, crop), 4),
            "seconds": round(position.seconds, 1),
            "processes": self.ranks.size,
            "hardware": hardware(),
            "mlflow_run_id": tracker.run_id,
            "git_sha": git_sha(),
            "torch": str(torch.__version__),
            "dataset_fingerprint": self.dataset["fingerprint"],
        }
        write_json(self.folder / "metrics.json", numbers)
        last, best = position.history[-1], position.best
        print(
            f"{self.model_config.name} {self.stage.name}: top-1 {last['val/top1']:.1f} % after "
            f"epoch {position.epoch}, in {self.folder / 'final.pt'}; best {best['val/top1']:.1f} % in "
            f"epoch {best['epoch']}, in {self.checkpoints.folder / 'best.pt'}",
            flush=True,
        )
        tracker.log_artifact(self.folder / "metrics.json", self.stage.name)
        tracker.log_artifact(self.folder / "final.pt", self.stage.name)
        if self.stage is self.model_config.final and self.config.tracking.log_model:
            tracker.log_model(self.folder / "final.pt")

    def _tracker(self) -> Tracker:
        """Rank 0's tracker, with what describes the run; a silent one elsewhere."""
        if not self.ranks.is_main:
            return Tracker()
        tracker = open_tracker(
            self.config, self.model_config.name, state_file=self.state_file, stage=self.stage.name
        )
        identity = self.identity["architecture"]
        tracker.set_tags(
            {
                "git_sha": git_sha(),
                "dataset_fingerprint": self.dataset["fingerprint"],
                "config_sha": configs.config_sha(self.config),
                **{key: identity[key] for key in ("arch", "preset", "units", "frames", "kernel", "blocks")},
            }
        )
        tracker.log_params({f"{self.stage.name}/{k}": v for k, v in _flat(self._settings()).items()})
        tracker.log_dataset(self.dataset)
        notes = self.folder / "environment.txt"
        write_text(notes, f"{hardware()}\ngit {git_sha() or 'none'}\n\n{packages()}")
        tracker.log_artifact(notes, self.stage.name)
        tracker.log_artifact(configs.write_resolved(self.config))
        if self.config.tracking.system_metrics:
            tracker.start_system_metrics()
        return tracker


def architecture(stage: StageConfig, num_classes: int) -> dict[str, Any]:
    """The arguments of `create_model` for a stage."""
    own = {"arch": stage.arch, "units": stage.units, "frames": stage.frames}
    return own | configs.plain(stage.options) | {"num_classes": num_classes}


def _flat(mapping: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
