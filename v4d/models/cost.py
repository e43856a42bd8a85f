"""Parameters and multiply-adds, counted by running the network on tensors without data."""

import copy
from dataclasses import dataclass

import torch
from torch import nn

from v4d.models.conv4d import Conv4d
from v4d.models.v4d import VideoNet


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


@torch.no_grad()
def stage_costs(model: VideoNet, units: int, frames: int, height: int, width: int) -> list[StageCost]:
    """Stem, stages (their residual 4D blocks as lines of their own) and head, in order."""
    network = copy.deepcopy(model).to("meta").eval()
    places = {id(block): f"{place} 4D" for place, block in network.blocks4d().items()}
    costs: dict[str, StageCost] = {}
    macs = _watch(network)
    x = torch.empty(units * frames, 3, height, width, device="meta")
    for stage, steps in network.stages().items():
        for step in steps:
            x = step(x, units, frames)
            name = places.get(id(step), stage)
            before = costs.get(name, StageCost(name, (), 0, 0.0))
            costs[name] = StageCost(
                name,
                (x.shape[1], frames, *x.shape[2:]),
                before.parameters + parameter_count(step),
                before.gmac + _taken(macs),
            )
    logits = network.head(x, units, frames)
    costs["head"] = StageCost("head", (logits.shape[1],), parameter_count(network.fc), _taken(macs))
    return list(costs.values())


def _watch(network: nn.Module) -> list[int]:
    """A list that fills with the multiply-adds of every layer that runs.

    Counted by the definition of a layer, padding included, whichever form of it this device would run.
    """
    macs: list[int] = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear | Conv4d):
            module.register_forward_hook(
                lambda layer, _, output: macs.append(output.numel() * layer.weight[0].numel())
            )
    return macs


def _taken(macs: list[int]) -> float:
    """The sum in billions; the list is empty afterwards."""
    total = sum(macs) / 1e9
    macs.clear()
    return total


def cost_table(model: VideoNet, *, height: int, width: int) -> str:
    """The stages as text, a line each, and their sum."""
    costs = stage_costs(model, model.units, model.frames, height, width)
    total = StageCost("total", (), sum(c.parameters for c in costs), sum(c.gmac for c in costs))
    spec = model.spec
    lines = [
        f"{spec['arch']} ({spec['preset']}), {model.units} x {model.frames} x {height} x {width}",
        f"{'stage':12}{'output of a unit':>20}{'parameters':>18}{'GMAC':>12}",
    ]
    for cost in [*costs, total]:
        shape = " x ".join(map(str, cost.shape))
        lines.append(f"{cost.name:12}{shape:>20}{cost.parameters:>18,}{cost.gmac:>12.3f}")
    return "\n".join(lines)
