"""Any file of weights as a `LoadedModel`, and whether its classes are those of the data."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from v4d.config import Config, ModelConfig, StageConfig, plain
from v4d.datasets import released_classes
from v4d.errors import V4DError
from v4d.models import MODELS
from v4d.models.base import VideoModel
from v4d.models.checkpoint import FRAME_STRIDE, LoadedModel, load_model, read_weights, stride_of
from v4d.models.export import SUFFIX, read_exported
from v4d.models.released import class_order, load_released, reorder_classes
from v4d.models.slow import load_slow, slow_layout
from v4d.utils.text import some_of


def load_any(
    path: Path, *, units: int = 4, frames: int | None = None, frame_stride: int | None = None
) -> LoadedModel:
    """A finished model of ours, weights of others (`v4d.models.released`, `slow`), or an exported program.

    `units` (U of a released checkpoint), `frames` (T of a slow pathway) and `frame_stride` (source frames)
    stand in for what a file does not tell.

    Raises:
        V4DError: no such file, or none of these.
    """
    if path.suffix == SUFFIX:
        program, description = read_exported(path)
        classes = description.get("classes") or [f"class {index}" for index in range(program.num_classes)]
        info = description.get("info", {})
        stride = stride_of(program, info, frame_stride)
        return LoadedModel(path, program, program.spec, classes, info, stride)
    document = read_weights(path)
    if slow_layout(document):
        model = load_slow(document, path, frames=frames)
        stride = frame_stride or FRAME_STRIDE
        return LoadedModel(path, model, model.spec, _class_names(model.num_classes), {}, stride)
    if isinstance(document, dict) and "architecture" not in document and "state_dict" in document:
        model = load_released(path, units=units)
        return LoadedModel(path, model, model.spec, _class_names(model.num_classes), {}, FRAME_STRIDE)
    return load_model(path, frame_stride=frame_stride)


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
    model = load_released(path, units=units, frames=frames)
    theirs = released_classes(model.num_classes)
    if converter is not None:
        order, names = class_order(converter, model.num_classes), released_classes() or []
        classes = [names[index] for index in order]
        reorder_classes(model, list(order.values()))
    elif theirs:
        classes = sorted(theirs)  # as our data sets have them
        reorder_classes(model, [theirs.index(name) for name in classes])
    else:
        classes = _class_names(model.num_classes)
    info = {"stage": {"frame_stride": FRAME_STRIDE}, "imported_from": str(path)}
    return LoadedModel(Path(path), model, model.spec, classes, info, FRAME_STRIDE)


def _class_names(count: int) -> list[str]:
    """The classes of the authors' networks, which are known by their number."""
    return released_classes(count) or [f"class {index}" for index in range(count)]


def described(model: VideoModel) -> dict[str, Any]:
    """What tells a network from others, for tags and metrics.json: its spec without the number of classes."""
    return plain({key: value for key, value in model.spec.items() if key != "num_classes"})


def load_finished(path: Path, stage: StageConfig, classes: Sequence[str]) -> LoadedModel:
    """Load a checkpoint for the data set's classes. What the file does not tell, the config's stage does.

    Raises:
        V4DError: no such file, not such a file, other classes, or another network than the stage's.
    """
    if path.suffix == SUFFIX:
        raise V4DError(f"{path}: an exported program is for `v4d predict`; test the checkpoint itself")
    finished = load_any(path, units=stage.units, frames=stage.frames, frame_stride=stage.frame_stride)
    check_classes(path, finished.classes, classes)
    check_network(path, finished.architecture, stage)
    return finished


def check_network(path: Path, architecture: Mapping[str, Any], stage: StageConfig) -> None:
    """Refuse a checkpoint of another network than the config names; units, frames and dropout may differ.

    Raises:
        V4DError: the first difference.
    """
    ours, theirs = _form(stage.arch, stage.options), _form(architecture["arch"], architecture)
    for key in {**ours, **theirs}:
        if ours.get(key) != theirs.get(key):
            raise V4DError(
                f"{path} holds another network than the config names: {key} is {theirs.get(key)!r}, "
                f"the config's is {ours.get(key)!r}"
            )


def _form(arch: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """An architecture's name and what its networks differ in, beside their weights."""
    options = MODELS[arch].Options
    chosen = {name: value for name, value in values.items() if name in options.model_fields}
    return {"arch": arch} | options.model_validate(chosen).form(arch)


def checkpoint_path(config: Config, model: ModelConfig) -> Path:
    """The file with a model's finished weights: its own, or what its last training stage left.

    Of a trained model `testing.checkpoint` chooses between its last epoch and its best one.

    Raises:
        V4DError: there is no such file.
    """
    if model.checkpoint is not None:
        path = Path(model.checkpoint)
        if not path.is_file():
            raise V4DError(f"models.{model.name}.checkpoint: no such file: {path}")
        return path
    path = config.paths.final_weights(model.name, model.final.name)
    if config.testing.checkpoint == "best" and path.is_file():
        path = config.paths.best_weights(model.name, model.final.name)
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
    parts = (("it lacks", absent), ("only it has", strange))
    difference = "; ".join(f"{what} {some_of(map(repr, names))}" for what, names in parts if names)
    if not difference:
        place = next(i for i, (a, b) in enumerate(zip(ours, wanted, strict=False)) if a != b)
        difference = (
            f"the same names in another order: class {place} is {ours[place]!r}, not {wanted[place]!r}"
        )
    raise V4DError(
        f"{path} has other classes than the data set ({len(ours)} and {len(wanted)}): {difference}"
    )
