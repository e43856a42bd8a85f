"""What no single key of a config can tell."""

from collections.abc import Iterator

from v4d.config import registry
from v4d.config.data import frame_size
from v4d.config.models import ModelConfig, StageConfig
from v4d.config.paths import Below, ResultsPaths
from v4d.config.root import Config
from v4d.errors import V4DError

RESERVED_MODELS = (
    *("dataset", "benchmarks"),
    *(place.name for place in vars(ResultsPaths).values() if isinstance(place, Below)),
)
"""Folders and files of results/<name>/ that are no model's."""
TEST, SEED = "test", "seed_"
"""Folders of results/<name>/<model>/ that are no stage's: the test, and those of other seeds, which begin so.
The files there have a dot in their names."""


def check_relations(config: Config) -> None:
    """Refuse a config whose keys contradict one another.

    Raises:
        V4DError: one line that names the key.
    """
    dataset = config.dataset
    dataset.options.check(dataset)
    if config.seed != config.seeds[0]:
        raise V4DError(f"config: seeds: {list(config.seeds)} should begin with seed, {config.seed}")
    for name, model in config.models.items():
        if name in RESERVED_MODELS:
            raise V4DError(f"config: models.{name}: this name is taken by a folder or file of the results")
        for stage in model.stages:
            if stage.name == TEST or stage.name.startswith(SEED):
                owner = "the model's test" if stage.name == TEST else "another seed"
                raise V4DError(
                    f"config: models.{name}.stages: the name {stage.name!r} is taken by the folder of {owner}"
                )
            _check_stage(config, model, stage)
        if model.testing.split not in dataset.splits:
            raise V4DError(
                f"config: {_testing(config, model)}.split {model.testing.split!r} is not among dataset.splits"
            )
        if model.testing.split != config.testing.split:
            raise V4DError(
                f"config: models.{name}.testing.split {model.testing.split!r} is another than testing.split, "
                f"{config.testing.split!r}: the rows of a comparison are of the same videos"
            )
    registry.named({"none": None} | registry.BACKENDS, config.tracking.backend, "tracking.backend")
    for table in config.tables:
        for row in table.rows:
            if row.model not in config.models:
                raise V4DError(
                    f"config: tables: {table.title!r} has a row of {row.model!r}, which is no model"
                )
    _check_crops(config)


def _check_stage(config: Config, model: ModelConfig, stage: StageConfig) -> None:
    where = f"models.{model.name}"
    training = stage.training
    for key in ("split", "val_split"):
        if model.checkpoint is None and getattr(training, key) not in config.dataset.splits:
            raise V4DError(
                f"config: {where}: training.{key} {getattr(training, key)!r} is not among dataset.splits"
            )
    before = model.before(stage)[-1] if stage.init == "previous" else None
    try:
        stage.check(stage.arch)  # type: ignore[attr-defined]
        if model.checkpoint is None:
            stage.check_init(stage.arch, stage.init, before)  # type: ignore[attr-defined]
    except V4DError as error:
        raise V4DError(f"config: {where}.{error}") from None
    low, high = training.crop.jitter
    if low > high:
        raise V4DError(f"config: {where}: training.crop.jitter {[low, high]} is not in order")
    if model.checkpoint is None and training.batch_size % training.accumulate:
        raise V4DError(
            f"config: {where}: training.batch_size {training.batch_size} does not divide by "
            f"training.accumulate {training.accumulate}: change one of them"
        )
    if training.optimizer.nesterov and training.optimizer.momentum == 0:
        raise V4DError(f"config: {where}: training.optimizer.nesterov needs a momentum above 0")


def notes(config: Config) -> list[str]:
    """What is set and has no effect, or another than it says: a line each; behind `; ` what to set."""
    return list(dict.fromkeys(line for model in config.models.values() for line in _notes(config, model)))


def _notes(config: Config, model: ModelConfig) -> Iterator[str]:
    where, own = f"models.{model.name}", model.final.units
    if model.testing.units < own:
        units = f"{_testing(config, model)}.units {model.testing.units}"
        yield f"{units} is below {where}.units {own}: {own} are used; set {own} or more"
    if model.checkpoint is not None:
        return
    unused = [set(stage.idle_keys(stage.arch)) for stage in model.stages]  # type: ignore[attr-defined]
    for name in sorted(set.intersection(*unused)):
        yield f"{where}.{name} has no effect: no stage has 4D blocks; remove it, or set a v4d_* arch"
    for stage in model.stages:
        optimizer, schedule = stage.training.optimizer, stage.training.schedule
        if optimizer.name == "adamw" and optimizer.nesterov:
            yield f"{where}: training.optimizer.nesterov has no effect with adamw; set it false, or name sgd"
        if schedule.warmup_epochs > 0 and schedule.name == "onecycle":
            yield (
                f"{where}: training.schedule.warmup_epochs {schedule.warmup_epochs} has no effect with "
                "onecycle, which rises by itself; set 0, and the share of its rise by rise"
            )
        elif schedule.warmup_epochs > stage.training.epochs:
            yield (
                f"{where}: training.schedule.warmup_epochs {schedule.warmup_epochs} is longer than the "
                f"training, {stage.training.epochs} epochs, which never has its full rate; lower it"
            )


def _check_crops(config: Config) -> None:
    """A crop larger than the frames would be found out by the first batch or the test."""
    frame = frame_size(config.frames.size or config.clips.size)
    short = frame if isinstance(frame, int) else min(frame)
    for name, model in config.models.items():
        for stage in model.stages if model.checkpoint is None else ():
            crop = stage.training.crop
            if crop.size > short:
                raise V4DError(
                    f"config: models.{name}: training.crop.size {crop.size} does not fit frames with a short "
                    f"side of {short} (frames.size, clips.size)"
                )
            if crop.kind == "short_side_jitter" and crop.size > crop.jitter[0]:
                raise V4DError(
                    f"config: models.{name}: training.crop.jitter {list(crop.jitter)} begins below "
                    f"training.crop.size {crop.size}: raise its first number, or lower the size"
                )
        size, scaled = model.testing.crop_size, model.testing.short_side or short
        if size is not None and size > scaled:
            raise V4DError(
                f"config: {_testing(config, model)}.crop_size {size} does not fit frames with a short side "
                f"of {scaled}: lower it, or set testing.short_side"
            )


def _testing(config: Config, model: ModelConfig) -> str:
    return "testing" if model.testing == config.testing else f"models.{model.name}.testing"
