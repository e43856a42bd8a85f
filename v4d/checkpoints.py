"""The finished model of a test or a prediction, and whether it fits the data."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from v4d.config import Config, ModelConfig, StageConfig
from v4d.errors import V4DError
from v4d.evaluation.exported import read_exported
from v4d.models.checkpoint import load_model, read_weights
from v4d.models.released import load_released
from v4d.utils.text import some_of


@dataclass(frozen=True)
class LoadedModel:
    """A network with its weights, in eval mode, and what is known about it."""

    path: Path
    model: nn.Module
    architecture: dict[str, Any]  # arguments of create_model
    classes: list[str]
    info: dict[str, Any]
    frame_stride: int  # source frames from one frame of a unit to the next

    @property
    def units(self) -> int:
        return self.architecture["units"]

    @property
    def frames(self) -> int:
        return self.architecture["frames"]


RELEASED_STRIDE = 8
"""Frame stride of the authors' networks."""


def load_any(path: Path, *, units: int = 4, frame_stride: int = RELEASED_STRIDE) -> LoadedModel:
    """A finished model of ours, a released checkpoint as the authors published it, or an exported program.

    `units` and `frame_stride` stand in for what a file does not tell.

    Raises:
        V4DError: no such file, or none of these.
    """
    if path.suffix == ".pt2":
        return _load_exported(path, frame_stride)
    document = read_weights(path)
    if isinstance(document, dict) and "architecture" not in document and "state_dict" in document:
        return _load_released(path, units)
    saved = load_model(path)
    stride = saved.info.get("stage", {}).get("frame_stride", frame_stride)
    return LoadedModel(path, saved.model, saved.architecture, saved.classes, saved.info, stride)


def _load_released(path: Path, units: int) -> LoadedModel:
    """Which classes the authors' networks have is known by their number."""
    from v4d.datasets import released_classes

    model = load_released(path, units=units)
    names = released_classes(model.num_classes) or [f"class {index}" for index in range(model.num_classes)]
    return LoadedModel(path, model, model.spec, names, {}, RELEASED_STRIDE)


def _load_exported(path: Path, frame_stride: int) -> LoadedModel:
    network, description = read_exported(path)
    architecture = {"units": network.units, "frames": network.frames, "num_classes": network.num_classes}
    classes = description.get("classes") or [f"class {index}" for index in range(network.num_classes)]
    info = description.get("info", {})
    stride = info.get("stage", {}).get("frame_stride", frame_stride)
    return LoadedModel(
        path, network, description.get("architecture", {}) | architecture, classes, info, stride
    )


def load_finished(path: Path, stage: StageConfig, classes: Sequence[str]) -> LoadedModel:
    """Load a checkpoint for the data set's classes. What the file does not tell, the config's stage does.

    Raises:
        V4DError: no such file, not such a file, or other classes.
    """
    if path.suffix == ".pt2":
        raise V4DError(f"{path}: an exported program is for `v4d predict`; test the checkpoint itself")
    finished = load_any(path, units=stage.units, frame_stride=stage.frame_stride)
    check_classes(path, finished.classes, classes)
    return finished


def checkpoint_path(config: Config, model: ModelConfig) -> Path:
    """The file with a model's finished weights: its own, or what its last training stage left.

    Raises:
        V4DError: there is no such file.
    """
    if model.checkpoint is not None:
        path = Path(model.checkpoint)
        if not path.is_file():
            raise V4DError(f"models.{model.name}.checkpoint: no such file: {path}")
        return path
    path = config.results / model.name / model.final.name / "final.pt"
    if not path.is_file():
        raise V4DError(f"model {model.name!r} is not trained: no such file: {path}")
    return path


def check_classes(path: Path, ours: Sequence[str], wanted: Sequence[str]) -> None:
    """Refuse a checkpoint whose classes are not those of the data set, index by index.

    Raises:
        V4DError: says what is different.
    """
    if list(ours) == list(wanted):
        return
    absent = [name for name in wanted if name not in set(ours)]
    strange = [name for name in ours if name not in set(wanted)]
    if absent or strange:
        difference = "; ".join(
            f"{what} {some_of(map(repr, names))}"
            for what, names in (("it lacks", absent), ("only it has", strange))
            if names
        )
    else:
        place = next(i for i, (a, b) in enumerate(zip(ours, wanted, strict=False)) if a != b)
        difference = (
            f"the same names in another order: class {place} is {ours[place]!r}, not {wanted[place]!r}"
        )
    raise V4DError(
        f"{path} has other classes than the data set ({len(ours)} and {len(wanted)}): {difference}"
    )
