"""A trained network as one file: weights, and what is needed to build and use it again."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from v4d.errors import V4DError
from v4d.files import atomic_path
from v4d.models.factory import create_model

FORMAT = 1


@dataclass(frozen=True)
class SavedModel:
    """What `load_model` gives back.

    `architecture` holds the arguments of `create_model`; `classes` the names by class index; `info`
    what training knew: "stage" (the stage's settings, e.g. its frame stride), "dataset_fingerprint",
    "clips" and "frames" (how videos were prepared), "mlflow_run_id".
    """

    model: nn.Module
    architecture: dict[str, Any]
    classes: list[str]
    info: dict[str, Any]


def save_model(
    path: str | Path,
    model: nn.Module,
    *,
    architecture: dict[str, Any],
    classes: list[str],
    info: dict[str, Any],
) -> None:
    """Write a network's weights and description; whole or not at all."""
    document = {
        "format": FORMAT,
        "model": {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()},
        "architecture": architecture,
        "classes": list(classes),
        "info": info,
    }
    with atomic_path(path) as temporary:
        torch.save(document, temporary)


def load_model(path: str | Path, *, device: str | torch.device = "cpu") -> SavedModel:
    """Build the network in a file written by `save_model`, or in a checkpoint of its training, in eval mode.

    Raises:
        V4DError: no such file, not such a file, or one that would run code when loaded.
    """
    document = read_weights(path)
    if isinstance(document, dict) and "identity" in document:
        document = _of_training(document)
    if not isinstance(document, dict) or "architecture" not in document or "model" not in document:
        raise V4DError(f"{path} is no finished v4d model (it has no architecture); see `v4d import-released`")
    if document.get("format") != FORMAT:
        raise V4DError(f"{path} has model format {document.get('format')}; this version reads {FORMAT}")
    model = create_model(**document["architecture"])
    try:
        model.load_state_dict(document["model"])
    except RuntimeError as error:
        raise V4DError(f"{path}: weights do not fit {document['architecture']['arch']}: {error}") from error
    model.to(device).eval()
    return SavedModel(model, document["architecture"], document["classes"], document["info"])


def _of_training(state: dict[str, Any]) -> dict[str, Any]:
    """A training's checkpoint as a finished model: its averaged weights, where it keeps such."""
    return {
        "format": state["format"],
        "model": state.get("average", state["model"]),
        "architecture": state["identity"]["architecture"],
        "classes": state["identity"]["classes"],
        "info": state["info"],
    }


def read_weights(path: str | Path) -> Any:
    """`torch.load` that never runs code, with one line where it fails.

    Raises:
        V4DError: no such file, a damaged file, or a pickle that holds more than tensors and plain values.
    """
    if not Path(path).is_file():
        raise V4DError(f"no such checkpoint: {path}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its zip and pickle readers raise
        names = re.search(r"GLOBAL:? ([\w.]+)", str(error))
        if names:
            raise V4DError(f"{path} is refused: loading {names[1]} in it could run code") from error
        why = str(error).strip().split("\n")[0]
        if "Weights only load failed" in why:
            why = "it holds more than tensors and plain values"
        raise V4DError(f"{path} is no readable checkpoint of weights alone: {why}") from error
