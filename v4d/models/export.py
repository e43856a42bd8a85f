"""A trained network as a program of its own, for machines without this package: torch.export or ONNX.

Units, frames and the size of the frames are fixed in it; the number of videos is not.
"""

import importlib.util
import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from v4d.errors import V4DError
from v4d.models.v4d import VideoNet
from v4d.utils.files import atomic_path

DESCRIPTION = "v4d.json"
"""The extra file in a `.pt2` that says what it is: `classes`, `architecture`, `info`."""
TOLERANCE = 1e-3
"""Largest difference allowed, relative to the largest logit; other kernels round otherwise (1e-6 to 1e-5)."""


def export(
    model: VideoNet, path: str | Path, *, height: int, width: int, description: dict[str, Any]
) -> float | None:
    """Write a network in evaluation mode to a `.pt2` or `.onnx` file, read it back and compare.

    Returns the largest difference of a logit on random videos, relative to the largest logit; None for ONNX
    where no onnxruntime is installed to run it.

    Raises:
        V4DError: another suffix, ONNX's packages are missing, or the program computes something else.
    """
    path, model = Path(path), model.eval()
    writers = {".pt2": _write_pt2, ".onnx": _write_onnx}
    if path.suffix not in writers:
        raise V4DError(f"cannot export to {path}: the name must end in {' or '.join(writers)}")
    x = torch.randn(3, model.units, 3, model.frames, height, width)
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters' remarks on their own insides
        run = writers[path.suffix](model, x[:2], temporary, description)
        if run is None:
            return None
        difference = max(_difference(model, run, videos) for videos in (x, x[:1]))
        if not difference <= TOLERANCE:
            raise V4DError(f"{path}: the exported program differs from the network by {difference:.1e}")
    return difference


@torch.no_grad()
def _difference(model: VideoNet, run: Callable[[Tensor], Tensor], x: Tensor) -> float:
    right = model(x)
    return ((run(x) - right).abs().max() / right.abs().max()).item()


def _write_pt2(model: VideoNet, x: Tensor, path: Path, description: dict[str, Any]):
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("videos")},))
    content = io.BytesIO()  # written by Python, which can say why a file cannot be
    torch.export.save(program, content, extra_files={DESCRIPTION: json.dumps(description)})
    path.write_bytes(content.getbuffer())
    return torch.export.load(path).module()


def _write_onnx(model: VideoNet, x: Tensor, path: Path, description: dict[str, Any]):
    if importlib.util.find_spec("onnxscript") is None:
        raise V4DError("ONNX needs two more packages: pip install onnxscript onnxruntime")
    program = torch.onnx.export(
        model, (x,), dynamo=True, dynamic_shapes=({0: torch.export.Dim("videos")},), verbose=False
    )
    program.model.metadata_props.update({key: json.dumps(value) for key, value in description.items()})
    program.save(path)
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])
