"""Parameters and multiply-adds, counted by running the network on tensors without data."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from v4d.models.network import VideoNet


@dataclass(frozen=True)
class StageCost:
    """A stage for one view of one video: `shape` is (C, T, H, W) of a unit behind it."""

    name: str
    shape: tuple[int, ...]
    parameters: int
    gmac: float


def parameter_count(model: nn.Module) -> int:
    """Number of parameters, classifier included; batch norm statistics are none."""
    return sum(parameter.numel() for parameter in model.parameters())


def gmac(model: VideoNet, units: int, frames: int, height: int, width: int) -> float:
    """Billions of multiply-adds of all convolutions and the classifier for one view of one video."""
    return sum(stage.gmac for stage in stage_costs(model, units, frames, height, width))


def stage_costs(model: VideoNet, units: int, frames: int, height: int, width: int) -> list[StageCost]:
    """Stem, stages (their residual 4D blocks as lines of their own) and head, in order."""
    network = copy.deepcopy(model).to("meta").eval()
    places = {id(block): f"{place} 4D" for place, block in network.blocks4d().items()}
    costs: dict[str, list] = {}
    x = torch.empty(units * frames, 3, height, width, device="meta")
    for stage, steps in network.stages().items():
        for step in steps:
            x, macs = _counted(step, x, units, frames)
            line = costs.setdefault(places.get(id(step), stage), [None, 0, 0.0])
            line[0] = (x.shape[1], frames, *x.shape[2:])
            line[1] += parameter_count(step)
            line[2] += macs
    logits, macs = _counted(network.head, x, units, frames)
    costs["head"] = [(logits.shape[1],), parameter_count(network.fc), macs]
    return [StageCost(name, *line) for name, line in costs.items()]


def _counted(step, x: Tensor, units: int, frames: int) -> tuple[Tensor, float]:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        y = step(x, units, frames)
    return y, counter.get_total_flops() / 2e9  # a multiply-add counts as two operations
