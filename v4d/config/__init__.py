"""Config files, read once: YAML in, frozen dataclasses out.

`config.schema.yaml` beside this file holds every key with its meaning, bounds and default;
the dataclasses below are the same keys, typed. `resolve` fills defaults, lays each stage's settings
over its model's and those over `training`, and refuses what the schema does not know.
"""

import copy
import dataclasses
import hashlib
import json
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from v4d.config.schema import check, schema
from v4d.errors import V4DError

RESERVED = ("dataset", "benchmarks", "plots")
STAGE_OVERRIDES = ("arch", "preset", "units", "frames", "frame_stride", "blocks", "kernel", "dropout", "init")


@dataclass(frozen=True)
class SyntheticConfig:
    videos: dict[str, int]
    size: int
    rest_frames: int
    seed: int


@dataclass(frozen=True)
class FolderConfig:
    path: str
    layout: str


@dataclass(frozen=True)
class KineticsConfig:
    version: str
    subset: str | None
    base_url: str
    mini_url: str
    mini_sha256: dict[str, str] | None
    parts: dict[str, int]
    use_replacements: bool
    keep_archives: bool
    connections: int
    rate_limit: float | None
    class_count: int | None
    youtube: bool
    cookies: str | None
    youtube_wait: float
    give_up: tuple[str, ...]


@dataclass(frozen=True)
class DatasetConfig:
    name: str
    source: str
    splits: tuple[str, ...]
    part_size: int
    limit: int | None
    max_bad_share: float
    synthetic: SyntheticConfig
    folder: FolderConfig
    kinetics: KineticsConfig

    @property
    def root(self) -> Path:
        """Folder of everything that is made of this data set."""
        return Path("data") / self.name

    def given_up(self, split: str, part: str) -> bool:
        """Whether the user does without the rest of a part."""
        return self.source == "kinetics" and f"{split}/{part}" in self.kinetics.give_up


@dataclass(frozen=True)
class ClipsConfig:
    size: str | int
    gop: int
    crf: int
    preset: str
    fps: float | None
    min_frames: int
    timeout: float
    keep: bool


@dataclass(frozen=True)
class FramesConfig:
    size: str | int | None
    quality: int
    stride: int
    decoder: str
    timeout: float


@dataclass(frozen=True)
class OptimizerConfig:
    name: str
    lr: float
    momentum: float
    nesterov: bool
    weight_decay: float
    decay_norm_and_bias: bool
    bias_lr_factor: float
    reference_batch: int | None


@dataclass(frozen=True)
class ScheduleConfig:
    name: str
    per: str
    milestones: tuple[float, ...]
    gamma: float
    warmup_epochs: float
    warmup_factor: float
    final_factor: float
    rise: float


@dataclass(frozen=True)
class CropConfig:
    kind: str
    size: int
    jitter: tuple[int, ...]
    flip: float
    color_jitter: float
    randaugment: int


@dataclass(frozen=True)
class TrainingConfig:
    split: str
    val_split: str
    epochs: int
    batch_size: int
    accumulate: int
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    clip_grad_norm: float | None
    label_smoothing: float
    mixup: float
    ema: float
    crop: CropConfig
    processes: int
    gpus: int
    workers: int | None
    locality: int
    bad_frames: str
    decode_on: str
    precision: str
    compile: bool
    checkpoint_activations: bool
    sync_batchnorm: bool
    precise_bn_videos: int
    checkpoint_minutes: float
    keep_checkpoints: int
    log_steps: int


@dataclass(frozen=True)
class StageConfig:
    """One training stage of a model, whole: its network, its data and its schedule."""

    name: str
    arch: str
    preset: str
    units: int
    frames: int
    frame_stride: int
    blocks: dict[str, list[int]] | None
    kernel: tuple[int, ...]
    dropout: float
    init: str
    freeze: tuple[str, ...]
    training: TrainingConfig


@dataclass(frozen=True)
class ModelConfig:
    name: str
    checkpoint: str | None
    stages: tuple[StageConfig, ...]

    @property
    def final(self) -> StageConfig:
        """The last stage: what is tested."""
        return self.stages[-1]

    def stage(self, name: str) -> StageConfig:
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise V4DError(
            f"model {self.name!r} has no stage {name!r}; it has {_names(s.name for s in self.stages)}"
        )


@dataclass(frozen=True)
class TestingConfig:
    __test__ = False  # pytest: this is no test

    split: str
    units: int
    crops: int
    crop_size: int | None
    short_side: int | None
    orders: tuple[str, ...]
    sampling: str
    combinations: bool
    batch_size: int
    chunk: int
    precision: str
    workers: int | None


@dataclass(frozen=True)
class TrackingConfig:
    backend: str
    uri: str
    experiment: str
    log_model: bool
    system_metrics: bool


@dataclass(frozen=True)
class Config:
    """A whole config; `document` is the resolved mapping it was built from."""

    name: str
    seed: int
    dataset: DatasetConfig
    clips: ClipsConfig
    frames: FramesConfig
    models: dict[str, ModelConfig]
    testing: TestingConfig
    tracking: TrackingConfig
    document: dict[str, Any] = dataclasses.field(repr=False, compare=False)

    @property
    def results(self) -> Path:
        """Folder of everything that is made of this config."""
        return Path("results") / self.name

    def model(self, name: str) -> ModelConfig:
        if name not in self.models:
            raise V4DError(f"no model {name!r} in config {self.name!r}; it has {_names(self.models)}")
        return self.models[name]


def load(*paths: str | Path) -> Config:
    """Read YAML files, each laid over the one before, and check them.

    Raises:
        V4DError: a file is missing or no YAML, a key is unknown, a value is out of bounds.
    """
    document: dict[str, Any] = {}
    for path in paths:
        document = merge(document, _read_yaml(Path(path)))
    return build(resolve(document))


def merge(base: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    """Lay one mapping over another, deeply; lists and scalars replace, as in Snakemake's `--configfile`."""
    result = dict(base)
    for key, value in overlay.items():
        old = result.get(key)
        result[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def resolve(document: dict[str, Any]) -> dict[str, Any]:
    """Check a config, fill every default and spell every stage out.

    The result is a fixed point: resolving it again changes nothing.

    Raises:
        V4DError: one line that names the key.
    """
    document = copy.deepcopy(document)
    check(document, schema(), "")
    models = {}
    for name, model in document["models"].items():
        if model is not None:
            models[name] = _resolve_model(name, model, document["training"])
    document["models"] = models
    if document["tracking"]["experiment"] is None:
        document["tracking"]["experiment"] = f"v4d/{document['name']}"
    _check_relations(document)
    return document


def build(document: dict[str, Any]) -> Config:
    """Typed objects from a resolved mapping."""
    models = {
        name: ModelConfig(name, model["checkpoint"], tuple(_typed(StageConfig, s) for s in model["stages"]))
        for name, model in document["models"].items()
    }
    return Config(
        name=document["name"],
        seed=document["seed"],
        dataset=_typed(DatasetConfig, document["dataset"]),
        clips=_typed(ClipsConfig, document["clips"]),
        frames=_typed(FramesConfig, document["frames"]),
        models=models,
        testing=_typed(TestingConfig, document["testing"]),
        tracking=_typed(TrackingConfig, document["tracking"]),
        document=document,
    )


def sha(value: Any) -> str:
    """The sha256 of a mapping's canonical JSON, 16 hex digits: tells settings apart, whatever their order."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def frame_size(size: str | int) -> tuple[int, int] | int:
    """`"320x256"` -> (320, 256), width and height; a number is a short side."""
    if isinstance(size, int):
        return size
    width, height = size.split("x")
    return int(width), int(height)


def _resolve_model(name: str, model: dict[str, Any], training: dict[str, Any]) -> dict[str, Any]:
    """Lay the model's settings under each of its stages."""
    stages: list[dict[str, Any]] = []
    for number, stage in enumerate(model["stages"]):
        where = f"models.{name}.stages.{number}"
        whole = {key: stage.get(key, model[key]) for key in STAGE_OVERRIDES}
        if "init" not in stage and number > 0:
            whole["init"] = "previous"
        whole |= {"name": stage["name"], "freeze": stage.get("freeze", [])}
        whole["training"] = merge(merge(training, model["training"]), stage.get("training", {}))
        check(whole["training"], schema()["$defs"]["training"], f"{where}.training")
        if whole["init"] == "previous" and number == 0:
            raise V4DError(f"config: {where}.init is 'previous', but it is the first stage")
        stages.append(whole)
    if len({stage["name"] for stage in stages}) < len(stages):
        raise V4DError(f"config: models.{name}.stages: two stages have the same name")
    return model | {"stages": stages}


def _check_relations(document: dict[str, Any]) -> None:
    """What no single key can tell."""
    dataset = document["dataset"]
    for name, model in document["models"].items():
        if name in RESERVED:
            raise V4DError(f"config: models.{name}: this name is taken by a folder of the results")
        for stage in model["stages"]:
            _check_stage(name, stage, dataset["splits"], trains=model["checkpoint"] is None)
    if document["models"] and document["testing"]["split"] not in dataset["splits"]:
        raise V4DError(f"config: testing.split {document['testing']['split']!r} is not among dataset.splits")
    if dataset["source"] == "synthetic":
        absent = [s for s in dataset["splits"] if s not in dataset["synthetic"]["videos"]]
        if absent:
            raise V4DError(f"config: dataset.synthetic.videos has no entry for split {absent[0]!r}")
    if dataset["source"] == "kinetics":
        absent = [s for s in dataset["splits"] if s not in dataset["kinetics"]["parts"]]
        if absent:
            raise V4DError(f"config: dataset.kinetics.parts has no entry for split {absent[0]!r}")
        _check_give_up(dataset["kinetics"])
    _check_crops(document)


def _check_give_up(kinetics: dict[str, Any]) -> None:
    """A mistyped part would be waited for in vain."""
    names = {split: [f"part_{n}" for n in range(count)] for split, count in kinetics["parts"].items()}
    for entry in kinetics["give_up"]:
        split, part = entry.split("/")
        if part not in [*names.get(split, []), "youtube"]:
            raise V4DError(f"config: dataset.kinetics.give_up: there is no part {entry!r}")


def _check_crops(document: dict[str, Any]) -> None:
    """A crop larger than the frames would be found out by the first validation, or by the test."""
    frame = frame_size(document["frames"]["size"] or document["clips"]["size"])
    short = frame if isinstance(frame, int) else min(frame)
    for name, model in document["models"].items():
        for stage in model["stages"]:
            crop = stage["training"]["crop"]["size"]
            if model["checkpoint"] is None and crop > short:
                raise V4DError(
                    f"config: models.{name}: training.crop.size {crop} does not fit frames with a short side "
                    f"of {short} (frames.size, clips.size)"
                )
    crop, scaled = document["testing"]["crop_size"], document["testing"]["short_side"] or short
    if document["models"] and crop is not None and crop > scaled:
        raise V4DError(
            f"config: testing.crop_size {crop} does not fit frames with a short side of {scaled}: "
            f"lower it, or set testing.short_side"
        )


def _check_stage(name: str, stage: dict[str, Any], splits: list[str], trains: bool) -> None:
    training = stage["training"]
    for key in ("split", "val_split"):
        if trains and training[key] not in splits:
            raise V4DError(
                f"config: models.{name}: training.{key} {training[key]!r} is not among dataset.splits"
            )
    if stage["blocks"] and not stage["arch"].startswith("v4d"):
        raise V4DError(f"config: models.{name}.blocks: {stage['arch']} has no 4D blocks")
    low, high = training["crop"]["jitter"]
    if low > high:
        raise V4DError(f"config: models.{name}: training.crop.jitter {[low, high]} is not in order")
    if training["optimizer"]["nesterov"] and training["optimizer"]["momentum"] == 0:
        raise V4DError(f"config: models.{name}: training.optimizer.nesterov needs a momentum above 0")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise V4DError(f"no such config file: {path}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise V4DError(f"cannot read config {path}: {error}") from error
    if not isinstance(document, dict):
        raise V4DError(f"config {path}: a mapping of keys is expected at the top")
    return document


def _typed(cls: type, mapping: dict[str, Any]) -> Any:
    """Build a dataclass from a mapping, nested ones and tuples included; other keys are left out."""
    hints = typing.get_type_hints(cls)
    values = {}
    for field in dataclasses.fields(cls):
        value, hint = mapping[field.name], hints[field.name]
        if dataclasses.is_dataclass(hint):
            value = _typed(hint, value)
        elif typing.get_origin(hint) is tuple:
            value = tuple(value)
        elif isinstance(hint, types.UnionType) and isinstance(value, int) and float in typing.get_args(hint):
            value = float(value)
        values[field.name] = value
    return cls(**values)


def _names(names: typing.Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "none"
