"""A trained network as a program of its own, for machines without this package: torch.export or ONNX.

Units, frames and the size of the frames are fixed in it; the number of videos is not. A `.pt2` file can be
read as a network again: `ExportedModel`.
"""

import dataclasses
import importlib.util
import io
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from v4d.errors import V4DError
from v4d.models.base import InputSpec, VideoModel
from v4d.utils.files import atomic_path

SUFFIX = ".pt2"
"""Of a file that `read_exported` reads."""
DESCRIPTION = "v4d.json"
"""The extra file in a `.pt2` that says what it is: `classes`, `architecture`, `info`, `input` (mean, std),
`clip_level`."""
TOLERANCE = 1e-3
"""Largest difference allowed, relative to the largest logit; other kernels round otherwise (1e-6 to 1e-5)."""
Program = Callable[[Tensor], Tensor]


def export(
    model: VideoModel, path: str | Path, *, height: int, width: int, description: dict[str, Any]
) -> float | None:
    """Write a network in evaluation mode to a `.pt2` or `.onnx` file, read it back and compare.

    Args:
        height, width: of the frames, pixels.
        description: what the file says of itself, beside the model's `input`; JSON.

    Returns:
        The largest difference of a logit on random videos, relative to the largest logit; None for ONNX where
        no onnxruntime is installed to run it.

    Raises:
        V4DError: another suffix, ONNX's packages are missing, or the program computes something else.
    """
    path, model = Path(path), model.eval()
    writers = {SUFFIX: _write_pt2, ".onnx": _write_onnx}
    if path.suffix not in writers:
        raise V4DError(f"cannot export to {path}: the name must end in {' or '.join(writers)}")
    x = torch.randn(3, model.units, model.input.channels, model.frames, height, width)
    description = description | {"input": {"mean": model.input.mean, "std": model.input.std}}
    description |= {"clip_level": model.clip_level}
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters warn of details of their own code
        run = writers[path.suffix](model, x[:2], temporary, description)
        if run is None:
            return None
        difference = max(_difference(model, run, videos) for videos in (x, x[:1]))
        if not difference <= TOLERANCE:
            raise V4DError(f"{path}: the exported program differs from the network by {difference:.1e}")
    return difference


@torch.no_grad()
def _difference(model: VideoModel, run: Program, x: Tensor) -> float:
    right = model(x)
    return ((run(x) - right).abs().max() / right.abs().max()).item()


def _write_pt2(model: VideoModel, x: Tensor, path: Path, description: dict[str, Any]) -> Program:
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("videos")},))
    content = io.BytesIO()  # Python writes the file, for a clear OSError if it cannot
    torch.export.save(program, content, extra_files={DESCRIPTION: json.dumps(description)})
    path.write_bytes(content.getbuffer())
    return torch.export.load(path).module()


def _write_onnx(model: VideoModel, x: Tensor, path: Path, description: dict[str, Any]) -> Program | None:
    if importlib.util.find_spec("onnxscript") is None:
        raise V4DError("ONNX needs two more packages: pip install onnxscript onnxruntime")
    program = torch.onnx.export(
        model, (x,), dynamo=True, dynamic_shapes=({0: torch.export.Dim("videos")},), verbose=False
    )
    assert program is not None  # dynamo=True returns a program
    program.model.metadata_props.update({key: json.dumps(value) for key, value in description.items()})
    program.save(path)
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


class ExportedModel(VideoModel):
    """An exported program: x `[N, U, C, T, H, W]` -> logits `[N, num_classes]`, always in evaluation mode.

    It shows nothing of its inside, so Algorithm 1 runs all of it on every combination. Units, frames, the
    size of the frames and the number of classes are read off its graph, the rest off its description.
    """

    def __init__(self, program: torch.export.ExportedProgram, description: Mapping[str, Any]):
        nodes = {node.name: node.meta.get("val") for node in program.graph.nodes}
        (name,) = program.graph_signature.user_inputs
        (output,) = program.graph_signature.user_outputs
        shape, logits = nodes[str(name)].shape, nodes[str(output)].shape
        if len(shape) != 6:
            raise ValueError(f"its input has {len(shape)} dimensions, not N U C T H W")
        sizes = {"units": int(shape[1]), "frames": int(shape[3]), "num_classes": int(logits[1])}
        super().__init__(**{"arch": "exported"} | description.get("architecture", {}) | sizes)
        crop = shape[4] if isinstance(shape[4], int) else None
        given: dict[str, Any] = {key: tuple(values) for key, values in description.get("input", {}).items()}
        self.input = dataclasses.replace(InputSpec(crop=crop, channels=int(shape[2])), **given)
        self.clip_level = bool(description.get("clip_level"))
        self.program = program.module()
        self.training = False

    def forward(self, x_NUCTHW: Tensor) -> Tensor:
        """Logits, video by video: the number of videos may be fixed in the program.

        So is that of units: a clip-level network sees a single unit as often as it takes units.
        """
        if self.clip_level and x_NUCTHW.shape[1] == 1:
            x_NUCTHW = x_NUCTHW.repeat(1, self.units, 1, 1, 1, 1)
        return torch.cat([self.program(x) for x in x_NUCTHW.split(1)])

    def train(self, mode: bool = True) -> Self:
        """Nothing: the program computes what it was exported as, and refuses another mode."""
        return self

    def forward_features(self, x_NUCTHW: Tensor) -> Tensor:
        """There are none to see."""
        raise V4DError("an exported program has no gradients to explain it by; give the checkpoint itself")


def read_exported(path: Path) -> tuple[ExportedModel, Mapping[str, Any]]:
    """The program in a `.pt2` file, and what it says of itself.

    Raises:
        V4DError: no such file, no such program, or one of another kind.
    """
    if not path.is_file():
        raise V4DError(f"no such checkpoint: {path}")
    extra = {DESCRIPTION: ""}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of how tensors were packed
            program = torch.export.load(path, extra_files=extra)
        description = json.loads(extra[DESCRIPTION] or "{}")
        return ExportedModel(program, description), description
    except Exception as error:  # torch.export.load passes on all errors of its readers
        why = str(error).strip().split("\n")[0]
        raise V4DError(f"{path} is no exported network of ours: {why}") from error
