"""A trained network as one file: weights, and what is needed to build and use it again."""

import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from v4d.errors import V4DError
from v4d.models.base import VideoModel
from v4d.models.registry import create_model
from v4d.utils.files import atomic_path

FORMAT = 1
FRAME_STRIDE = 8
"""Source frames from one frame of a unit to the next where a file does not say it: as the authors trained."""
_PARTS = {"architecture": dict, "model": Mapping, "classes": list, "info": dict}


@dataclass(frozen=True)
class LoadedModel:
    """A network with its weights, in evaluation mode, and what its file says of it.

    Raises:
        V4DError: it can compute nothing: see `check_numbers`.
    """

    path: Path
    """The file."""
    model: VideoModel
    """On the CPU, until it is moved."""
    architecture: dict[str, Any]
    """The arguments of `create_model`."""
    classes: list[str]
    """Names by class index."""
    info: dict[str, Any]
    """What training knew: "stage" (its settings), "dataset_fingerprint", "clips", "frames" and "testing" (how
    videos are prepared and tested), "mlflow_run_id"; empty for weights of others."""
    frame_stride: int
    """Source frames from one frame of a unit to the next."""

    def __post_init__(self) -> None:
        check_numbers(self.model, self.path)

    @property
    def units(self) -> int:
        """Units of a video in training (U)."""
        return self.architecture["units"]

    @property
    def frames(self) -> int:
        """Frames of a unit (T)."""
        return self.architecture["frames"]


def save_model(
    path: str | Path,
    model: VideoModel,
    *,
    architecture: dict[str, Any],
    classes: list[str],
    info: dict[str, Any],
) -> None:
    """Write a network's weights and description, as in `LoadedModel`; whole or not at all.

    Raises:
        V4DError: the disk is full, the folder cannot be written, or the weights are no numbers.
    """
    check_numbers(model, path)
    document = {
        "format": FORMAT,
        "model": {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()},
        "architecture": architecture,
        "classes": list(classes),
        "info": info,
    }
    write_weights(path, document)


def load_model(path: str | Path, *, frame_stride: int | None = None) -> LoadedModel:
    """Build the network in a file written by `save_model`, or in a checkpoint of its training.

    Args:
        frame_stride: for a file that does not say it; None for the network's own, or 8.

    Raises:
        V4DError: no such file, not such a file, a damaged one, or one that would run code when loaded.
    """
    document = read_weights(path)
    if isinstance(document, dict) and isinstance(document.get("identity"), dict):
        document = _of_training(document)
    if not isinstance(document, dict) or "architecture" not in document or "model" not in document:
        raise V4DError(f"{path} is no finished v4d model (it has no architecture); see `v4d import-released`")
    if document.get("format") != FORMAT:
        raise V4DError(f"{path} has model format {document.get('format')}; this version reads {FORMAT}")
    for part, kind in _PARTS.items():
        if not isinstance(document.get(part), kind):
            raise V4DError(f"{path} is no finished v4d model: {part} missing or of another kind")
    model = _network(path, document)
    model.eval()
    info = document["info"]
    stride = stride_of(model, info, frame_stride)
    return LoadedModel(Path(path), model, document["architecture"], document["classes"], info, stride)


def check_numbers(model: torch.nn.Module, where: str | Path) -> None:
    """Refuse weights with which every score would be NaN: not finite, or a negative variance of a batch norm.

    Raises:
        V4DError: names the first of them.
    """
    for name, values in model.state_dict().items():
        if not values.is_floating_point():
            continue
        if not values.isfinite().all():
            raise V4DError(f"{where}: {name} is not finite: the training diverged, or the file was changed")
        if name.endswith("running_var") and (values < 0).any():
            raise V4DError(f"{where}: {name} is negative, which no variance is: the file was changed")


def stride_of(model: VideoModel, info: Mapping[str, Any], given: int | None) -> int:
    """Source frames from one frame of a unit to the next: the file's, else as given, else the network's."""
    said = info.get("stage", {}).get("frame_stride")
    return said or given or model.input.frame_stride or FRAME_STRIDE


def _network(path: str | Path, document: dict[str, Any]) -> VideoModel:
    """The network that a document describes, with its weights."""
    try:
        model = create_model(**document["architecture"])
    except (V4DError, AttributeError, TypeError, ValueError) as error:
        raise V4DError(f"{path} describes no network of this version: {error}") from error
    if len(document["classes"]) != model.num_classes:
        raise V4DError(f"{path} names {len(document['classes'])} classes for {model.num_classes} outputs")
    try:
        model.load_state_dict(document["model"])
    except RuntimeError as error:
        why = first_difference(model.state_dict(), document["model"]) or str(error).split("\n")[1].strip()
        raise V4DError(f"{path}: weights do not fit {model.spec['arch']}: {why}") from error
    return model


def first_difference(wanted: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """What keeps `given` from being loaded: the first missing and the first unexpected name; "" for nothing.

    Counters of batches are not missed: files from before PyTorch 0.4.1 have none, and nothing reads them.
    """
    missing = [name for name in wanted if name not in given and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in given if name not in wanted]
    parts = []
    for what, names in (("missing", missing), ("unexpected", unexpected)):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            parts.append(f"{what} {names[0]}{more}")
    return ", ".join(parts)


def _of_training(state: dict[str, Any]) -> dict[str, Any]:
    """A training's checkpoint as a finished model: its averaged weights, where it keeps such."""
    described = {key: state["identity"].get(key) for key in ("architecture", "classes")}
    weights = state.get("average", state.get("model"))
    return described | {"format": state.get("format"), "model": weights, "info": state.get("info")}


def write_weights(path: str | Path, document: Any) -> None:
    """`torch.save`, whole or not at all.

    Raises:
        V4DError: the disk is full or the folder cannot be written.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(document, file)
        except RuntimeError as error:  # torch's zip writer hides the OSError of a failed write
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def read_weights(path: str | Path) -> Any:
    """`torch.load` that never runs code, with one line where it fails.

    Raises:
        V4DError: no such file, a damaged file, or a pickle that holds more than tensors and plain values.
    """
    if not Path(path).is_file():
        raise V4DError(f"no such checkpoint: {path}")
    try:
        damaged = _damaged_record(Path(path))
        document = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
    except zipfile.BadZipFile as error:
        raise V4DError(f"{path} is damaged or cut off: {error}") from error
    except Exception as error:  # torch.load passes on all errors of its zip and pickle readers
        names = re.search(r"GLOBAL:? ([\w.]+)", str(error))
        if names:
            raise V4DError(f"{path} is refused: loading {names[1]} in it could run code") from error
        why = str(error).strip().split("\n")[0]
        if "Weights only load failed" in why:
            why = "it holds more than tensors and plain values"
        why = why or type(error).__name__
        raise V4DError(f"{path} is no readable checkpoint of weights alone: {why}") from error
    if damaged:
        raise V4DError(f"{path} is damaged: the checksum of {damaged} in it is wrong")
    return document


def _damaged_record(path: Path) -> str | None:
    """The first record of a zip file that is not what was written; `torch.load` does not look.

    A GB/s or so. Files from before PyTorch 1.6 are no zip files and have no checksums.
    """
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return None
    with zipfile.ZipFile(path) as archive:
        return archive.testzip()
