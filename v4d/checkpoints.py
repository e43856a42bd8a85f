"""The finished model of a test or a prediction, and whether it fits the data."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from v4d.config import Config, ModelConfig, StageConfig
from v4d.errors import V4DError
from v4d.evaluation.exported import read_exported
from v4d.models.checkpoint import load_model, read_weights
from v4d.models.released import class_order, load_released, reorder_classes


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


def import_released(
    path: str | Path, *, units: int, frames: int | None = None, converter: str | Path | None = None
) -> LoadedModel:
    """A released checkpoint with its classes in the order of our data sets.

    Args:
        frames: frames of a unit; None as in `load_released`.
        converter: JSON file, Kinetics-400 class index to the checkpoint's; None takes the known order.

    Raises:
        V4DError: no such file, or not such a file.
    """
    from v4d.datasets.kinetics import class_names

    model = load_released(path, units=units, frames=frames, converter=converter)
    if converter is not None:
        names = class_names()
        classes = [names[index] for index in class_order(converter, model.num_classes)]
    else:
        theirs = _released_classes(model.num_classes)
        # Our Mini-Kinetics has its 200 classes in alphabetical order, theirs does not.
        classes = sorted(theirs) if len(theirs) == 200 else theirs
        reorder_classes(model, [theirs.index(name) for name in classes])
    info = {"stage": {"frame_stride": RELEASED_STRIDE}, "imported_from": str(path)}
    return LoadedModel(Path(path), model, model.spec, classes, info, RELEASED_STRIDE)


def _load_released(path: Path, units: int) -> LoadedModel:
    model = load_released(path, units=units)
    return LoadedModel(path, model, model.spec, _released_classes(model.num_classes), {}, RELEASED_STRIDE)


def _released_classes(count: int) -> list[str]:
    """The classes of the authors' network with so many of them, in its own order."""
    from v4d.datasets.kinetics import class_names, released_mini_order

    known = {400: class_names, 200: released_mini_order}.get(count)
    return known() if known else [f"class {index}" for index in range(count)]


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
            f"{what} {_some(names)}"
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


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _some(names: list[str], count: int = 3) -> str:
    rest = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(map(repr, names[:count])) + rest
