"""An exported program (`.pt2`) as a network that can be asked about videos.

It shows nothing of its inside, so Algorithm 1 has to run all of it on every combination. `v4d export` adds
classes, architecture and info to it; units, frames, the size of the frames and the number of classes are read
off its graph.
"""

import itertools
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from v4d.errors import V4DError
from v4d.evaluation.algorithm1 import evenly_spaced, unit_sections, video_scores
from v4d.models import VideoNet
from v4d.models.export import DESCRIPTION


class ExportedNetwork(nn.Module):
    """x `[1, U, C, T, H, W]` -> logits `[1, num_classes]`; `size` is H and W, None where any will do."""

    def __init__(self, program: torch.export.ExportedProgram):
        super().__init__()
        self.program = program.module()
        placeholders = {
            node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"
        }
        (name,) = program.graph_signature.user_inputs
        (output,) = program.graph_signature.user_outputs
        shape = placeholders[name].shape
        logits = next(node.meta["val"] for node in program.graph.nodes if node.name == output)
        if len(shape) != 6:
            raise ValueError(f"its input has {len(shape)} dimensions, not N U C T H W")
        self.units, self.frames, self.num_classes = int(shape[1]), int(shape[3]), int(logits.shape[1])
        self.size = (shape[4], shape[5]) if all(isinstance(side, int) for side in shape[4:]) else None

    def forward(self, x_NUCTHW: Tensor) -> Tensor:
        return torch.cat([self.program(x) for x in x_NUCTHW.split(1)])


@torch.no_grad()
def any_scores(network: nn.Module, x_NUCTHW: Tensor, *, combinations: bool = True, chunk: int = 64) -> Tensor:
    """`video_scores` for our networks and for exported ones: probabilities `[N, K]`."""
    if isinstance(network, VideoNet):
        return video_scores(network, x_NUCTHW, combinations=combinations, chunk=chunk)
    sections = unit_sections(x_NUCTHW.shape[1], network.units)
    if combinations:
        chosen = list(itertools.product(*sections))
    else:
        chosen = [evenly_spaced(x_NUCTHW.shape[1], network.units)]
    total = sum(network(x_NUCTHW[:, list(units)]).float().softmax(-1) for units in chosen)
    return total / len(chosen)


def read_exported(path: Path) -> tuple[ExportedNetwork, Mapping[str, Any]]:
    """The program, and what it says of itself.

    Raises:
        V4DError: no such file, no such program, or one of another kind.
    """
    if not path.is_file():
        raise V4DError(f"no such checkpoint: {path}")
    extra = {DESCRIPTION: ""}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on how tensors were packed
            network = ExportedNetwork(torch.export.load(path, extra_files=extra))
        return network, json.loads(extra[DESCRIPTION] or "{}")
    except Exception as error:  # torch raises whatever its readers raise
        why = str(error).strip().split("\n")[0]
        raise V4DError(f"{path} is no exported network of ours: {why}") from error
