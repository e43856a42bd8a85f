"""Parameters and multiply-adds, counted by running the network on tensors without data."""

import copy
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from v4d.models.base import VideoModel
from v4d.models.conv4d import Conv4d


@dataclass(frozen=True)
class StageCost:
    """A part of a network for one view of one video."""

    name: str
    """A key of `VideoModel.parts`."""
    shape: tuple[int, ...]
    """Behind it: C, T, H, W of a unit; of a part behind the pooling the number of outputs."""
    parameters: int
    """Their number."""
    macs: int
    """Multiply-adds."""


def parameter_count(model: nn.Module) -> int:
    """Number of parameters, classifier included; batch norm statistics are none."""
    return sum(parameter.numel() for parameter in model.parameters())


def gmac(model: VideoModel, units: int, frames: int, height: int, width: int) -> float:
    """Billions of multiply-adds of convolutions and matrix products, for one view of one video."""
    return sum(cost.macs for cost in stage_costs(model, units, frames, height, width)) / 1e9


@torch.no_grad()
def stage_costs(model: VideoModel, units: int, frames: int, height: int, width: int) -> list[StageCost]:
    """The network's `parts` in order, and as `rest` what lies outside of them, where that is anything."""
    network = copy.deepcopy(model).to("meta").eval()
    count = _Count(network, frames)
    parts = network.parts()
    for name, modules in parts.items():
        for module in modules:
            module.register_forward_pre_hook(count.begin)
            module.register_forward_hook(partial(count.end, name))
    with count.flops:
        network(torch.empty(1, units, network.input.channels, frames, height, width, device="meta"))
    costs = [
        StageCost(name, count.shapes.get(name, ()), sum(map(parameter_count, modules)), count.macs[name])
        for name, modules in parts.items()
    ]
    parameters = parameter_count(network) - sum(cost.parameters for cost in costs)
    rest = StageCost("rest", (), parameters, count.total() - sum(cost.macs for cost in costs))
    return [*costs, rest] if rest.macs or rest.parameters else costs


@torch.no_grad()
def gmac_of(model: VideoModel, frames: int, work: Callable[[VideoModel], object]) -> float:
    """Billions of multiply-adds of what `work` does with a network on the device `meta`."""
    network = copy.deepcopy(model).to("meta").eval()
    count = _Count(network, frames)
    with count.flops:
        work(network)
    return count.total() / 1e9


class _Count:
    """Multiply-adds and shapes of a network's parts, filled by hooks while it runs.

    Layers count by their definition, padding included, whichever form of them this device would run; outside
    of layers torch's own counter sees the matrix products, as of attention.
    """

    def __init__(self, network: nn.Module, frames: int):
        self.frames = frames
        self.flops = FlopCounterMode(display=False)
        self.macs: dict[str, int] = defaultdict(int)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._correction = 0  # multiply-adds of layers beyond those that torch's counter sees
        self._begun: list[int] = []
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear | Conv4d):
                module.register_forward_pre_hook(self._enter)
                module.register_forward_hook(self._leave)

    def total(self) -> int:
        """All multiply-adds so far, outside of a layer."""
        return self.flops.get_total_flops() // 2 + self._correction

    def begin(self, *_: Any) -> None:
        """A module of a part begins."""
        self._begun.append(self.total())

    def end(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        """A module of the part `name` ends."""
        self.macs[name] += self.total() - self._begun.pop()
        tensor = next(leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor))
        self.shapes[name] = tuple(tensor.shape[1:] if tensor.dim() > 3 else tensor.shape[-1:])
        if tensor.dim() == 4:  # its frames are folded into the batch
            self.shapes[name] = (tensor.shape[1], self.frames, *tensor.shape[2:])

    def _enter(self, *_: Any) -> None:
        self._entered = self.total()

    def _leave(self, layer: Any, inputs: Any, output: torch.Tensor) -> None:
        self._correction += self._entered + output.numel() * layer.weight[0].numel() - self.total()


def cost_table(model: VideoModel, *, height: int, width: int) -> str:
    """The parts as text, a line each, and their sum."""
    costs = stage_costs(model, model.units, model.frames, height, width)
    total = StageCost("total", (), sum(c.parameters for c in costs), sum(c.macs for c in costs))
    shape = ("arch", "num_classes", "units", "frames")
    options = ", ".join(f"{key} {value}" for key, value in model.spec.items() if key not in shape)
    lines = [
        f"{model.spec['arch']}{f' ({options})' if options else ''}, "
        f"{model.units} x {model.frames} x {height} x {width}",
        f"{'stage':12}{'output of a unit':>20}{'parameters':>18}{'GMAC':>12}",
    ]
    for cost in [*costs, total]:
        size = " x ".join(map(str, cost.shape))
        lines.append(f"{cost.name:12}{size:>20}{cost.parameters:>18,}{cost.macs / 1e9:>12.3f}")
    return "\n".join(lines)
