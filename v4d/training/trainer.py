"""One training stage of a model, from the data set to its outputs: builds, resumes, runs."""

import dataclasses
import functools
import hashlib
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from v4d import config as configs
from v4d.config import Config, StageConfig, TrainingConfig, check_mixup
from v4d.data.index import class_names, dataset_info, records
from v4d.data.loader import Loader
from v4d.distributed.group import DistributedContext, any_rank, barrier
from v4d.errors import V4DError
from v4d.models import create_model, freeze
from v4d.models.base import VideoModel, check_crop
from v4d.tracking import Tracker, forget_stages
from v4d.training.checkpoint import CheckpointManager, check_identity
from v4d.training.compilation import will_compile
from v4d.training.init_weights import initial_weights, load_initial, weights_digest
from v4d.training.inputs import check_data, optimiser_steps, training_batches, validation_batches
from v4d.training.metric_logger import MetricLogger, RunInfo
from v4d.training.outputs import StageOutputs
from v4d.training.step import Diverged, Preempted, StopSignal, TrainState, TrainStep, train_epoch
from v4d.training.validation import measure_batch_norm, validate

RULES = 2
"""Of drawing what a training sees; one that was begun under earlier rules goes on under them. 1: multi-scale
crops without the released snap. 2: with it."""


class Trainer:
    """Holds what one rank needs; `run` does the work."""

    def __init__(self, config: Config, model_name: str, stage_name: str, context: DistributedContext):
        self.config, self.context = config, context
        self.model_config = config.model(model_name)
        self.stage = self.model_config.stage(stage_name)
        self.settings = self.stage.training
        self.classes = class_names(config)
        self.train_videos = records(config, self.settings.split)
        self.val_videos = records(config, self.settings.val_split)
        check_data(self.stage, self.train_videos, self.classes, context.size)
        folder = config.paths.checkpoints(model_name, stage_name)
        self.checkpoints = CheckpointManager(folder, self.settings.keep_checkpoints)
        dataset = dataset_info(config)
        self.identity = {
            "architecture": architecture(self.stage, len(self.classes)),
            "classes": self.classes,
            "dataset": dataset["fingerprint"],
        }
        self.outputs = StageOutputs(config, self.model_config, self.stage, self.identity, dataset)
        self.earlier = self.model_config.before(self.stage)
        self.rules = RULES
        self.source = initial_weights(config, self.model_config, self.stage)
        self.compiled = will_compile(self.stage, len(self.train_videos), context)
        # Units, crops, flips, order and dropout: no two stages of a model draw the same.
        self.draws = drawing_seed(config.seed, self.stage.name) if self.earlier else config.seed

    def run(self) -> None:
        """Train to the end and write `final.pt` and `metrics.json`.

        Raises:
            Preempted: a signal asked to stop; the state is saved.
            V4DError: what the user can mend.
        """
        with self.checkpoints.locked() if self.context.is_main else nullcontext():
            saved = self._resumable_state()
            if saved is not None:  # older versions drew in every stage as in the first
                self.draws, self.rules = saved.get("draws", self.config.seed), saved.get("rules", 1)
            if saved is None or saved["world_size"] != self.context.size:
                check_mixup(self.settings, self.context.size)
            torch.manual_seed(self.config.seed)
            model = self._model(fresh=saved is None)
            train_step = TrainStep(model, self.stage, self.context, self.draws, compiled=self.compiled)
            state = TrainState()
            if saved is not None:
                try:
                    train_step.load_state(saved)
                    state = TrainState(**saved["position"])
                    if min(state.epoch, state.step) < 0:
                        raise ValueError(f"it is at epoch {state.epoch}, step {state.step}")
                except torch.OutOfMemoryError:
                    raise
                except (KeyError, TypeError, ValueError, RuntimeError) as error:
                    why = " ".join(str(error).split())[:200]
                    raise V4DError(
                        f"{self.checkpoints.folder}: the saved state does not fit this network and optimiser "
                        f"({why}); move the folder away to train anew"
                    ) from error
            with self._tracker(train_step.model) as tracker:
                self._train(train_step, state, tracker)
                if self.context.is_main:
                    final = self._validated_model(train_step).eval()
                    self.outputs.write(final, state, tracker, self.context.size)
            barrier(self.context)

    def _run_info(self) -> RunInfo:
        return RunInfo(
            title=f"{self.config.run_name(self.model_config.name)} {self.stage.name}",
            train_videos=len(self.train_videos),
            val_videos=len(self.val_videos),
            classes=len(self.classes),
            epoch_offset=sum(stage.training.epochs for stage in self.earlier),
            step_offset=sum(
                optimiser_steps(stage.training, len(records(self.config, stage.training.split)))
                for stage in self.earlier
            ),
        )

    def _tracker(self, model: VideoModel) -> Tracker:
        """Rank 0's tracker; a silent one elsewhere."""
        if not self.context.is_main:
            return Tracker()
        return self.outputs.open_tracker(model, self._deciding(self._settings()))

    def _resumable_state(self) -> dict[str, Any] | None:
        """The last checkpoint, if it belongs to this training; one with other settings is set aside."""
        if self.context.is_main:
            saved = self.checkpoints.load()
            if saved is not None:
                then, now = self._comparable(saved["identity"]), self._comparable(self.identity)
                check_identity(then, now, self.checkpoints.folder)
                if self._deciding(saved["settings"]) != self._deciding(self._settings()):
                    self._set_aside(saved)
        barrier(self.context)
        return self.checkpoints.load()

    def _comparable(self, identity: dict[str, Any]) -> dict[str, Any]:
        """An identity without keys of the architecture at the value that changes nothing (`Mark.before`)."""
        return identity | {"architecture": configs.settings(identity["architecture"], type(self.stage))}

    def _set_aside(self, saved: dict[str, Any]) -> None:
        then, now = self._deciding(saved["settings"]), self._deciding(self._settings())
        changed = [key for key in now | then if then.get(key) != now.get(key)]
        state_file = self.config.paths.run_state(self.config.run_name(self.model_config.name))
        with self.checkpoints.set_aside(configs.sha(saved["settings"])[:8]) as aside:
            forget_stages(state_file, {stage.name for stage in self.earlier}, aside)
        print(f"settings have changed ({', '.join(changed)}): trains anew, the old state is in {aside}")

    def _settings(self) -> dict[str, Any]:
        """Every setting that changes the weights; how many workers load and how often is logged do not."""
        chosen = configs.settings(configs.plain(self.stage), type(self.stage))
        training = chosen.pop("training")
        return chosen | training | {"seed": self.config.seed} | self._initial_digest

    def _deciding(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Settings without those that cost more or less, the weights being the same to the last bit."""
        chosen = configs.settings(settings, TrainingConfig, but=("cost",))
        if not configs.decodes_on_gpu(chosen.get("decode_on", "host"), self.context.device.type):
            chosen.pop("decode_on", None)
        return chosen

    @functools.cached_property
    def _initial_digest(self) -> dict[str, str]:
        """Where the stage before was trained anew, or a file replaced, this stage starts anew too."""
        path = self.source
        return {"initial_weights": weights_digest(path)} if isinstance(path, Path) else {}

    def _model(self, fresh: bool) -> VideoModel:
        model = create_model(**self.identity["architecture"])
        check_crop(model, self.settings.crop.size, "training.crop.size")
        if fresh and self.source != "scratch":
            new = load_initial(model, self.source, self.classes)
            if self.context.is_main:
                print(f"starts from {self.source}" + (f"; new: {new}" if new else ""), flush=True)
        for what in self.stage.freeze:
            freeze(model, what)
        return model.to(self.context.device)

    def _train(self, train_step: TrainStep, state: TrainState, tracker: Tracker) -> None:
        stop, loader = StopSignal(), self._train_loader()
        validation = validation_batches(self.stage, self.val_videos, self.context)
        logger = MetricLogger(self._run_info(), tracker, state, loader, train_step)
        if state.epoch < self.settings.epochs:
            logger.started()
        while state.epoch < self.settings.epochs:
            self._train_one_epoch(train_step, loader, state, stop, logger)
            numbers = self._validate(train_step, validation)
            best = numbers["val/top1"] > state.best.get("val/top1", -1.0)
            if best:
                state.best = {"epoch": state.epoch + 1, "val/top1": numbers["val/top1"]}
            logger.epoch_ended(numbers)
            state.epoch += 1
            state.step, state.sums = 0, [0.0] * 4
            if self.context.is_main:
                self.checkpoints.save(self._document(train_step, state), end_of_epoch=True, best=best)
            if any_rank(self.context, stop.received) and state.epoch < self.settings.epochs:
                raise Preempted

    def _train_loader(self) -> Loader:
        return training_batches(
            self.stage, self.train_videos, self.context, self.draws, self.rules, equal=self.compiled
        )

    def _train_one_epoch(
        self, train_step: TrainStep, loader: Loader, state: TrainState, stop: StopSignal, logger: MetricLogger
    ) -> None:
        train_step.model.train()
        saved = time.monotonic()
        try:
            for steps, totals, stops in train_epoch(train_step, loader, state, stop):
                state.sums = [a + b for a, b in zip(state.sums, totals, strict=True)]
                logger.steps_done(steps, totals)
                minutes = (time.monotonic() - saved) / 60
                # Also after the last step: the validation may take long.
                if self.context.is_main and (stops or minutes >= self.settings.checkpoint_minutes):
                    document = self._document(train_step, state)
                    self.checkpoints.save(document, end_of_epoch=False, best=False)
                    saved = time.monotonic()
                if stops:
                    barrier(self.context)
                    raise Preempted
        except Diverged as error:
            if self.context.is_main:
                self.checkpoints.save_debug(self._document(train_step, state))
            barrier(self.context)
            raise Diverged(f"{error}; the state is in {self.checkpoints.debug}") from error

    def _validate(self, train_step: TrainStep, validation: Loader) -> dict[str, float]:
        settings = self.settings
        model = self._validated_model(train_step)
        if settings.precise_bn_videos:
            batches = -(-settings.precise_bn_videos * settings.accumulate // settings.batch_size)
            measure_batch_norm(model, self._train_loader(), self.context, batches, settings.precision)
            if train_step.average is not None:  # keep the weights that are validated
                train_step.average.take(model.state_dict())
        return validate(model, validation, self.context, len(self.val_videos), settings.precision)

    def _validated_model(self, train_step: TrainStep) -> VideoModel:
        """The network itself, or one with the averaged weights."""
        if train_step.average is None:
            return train_step.model
        model = self._model(fresh=False)
        model.load_state_dict(train_step.average.state)
        return model

    def _document(self, train_step: TrainStep, state: TrainState) -> dict[str, Any]:
        """The content of a checkpoint."""
        return {
            **train_step.state(),
            "rules": self.rules,
            "position": configs.plain(dataclasses.asdict(state)),
            "epoch": state.epoch,
            "identity": self.identity,
            "settings": self._settings(),
            "draws": self.draws,
            "info": self.outputs.info(),
            "world_size": self.context.size,
            "torch": str(torch.__version__),
        }


def drawing_seed(seed: int, stage: str) -> int:
    """The seed of what a stage behind the first draws: the config's seed and the stage's name, 63 bits."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{stage}".encode()).digest()[:8], "little") >> 1


def architecture(stage: StageConfig, num_classes: int) -> dict[str, Any]:
    """The arguments of `create_model` for a stage."""
    own = {"arch": stage.arch, "units": stage.units, "frames": stage.frames}
    return own | configs.plain(stage.options) | {"num_classes": num_classes}
