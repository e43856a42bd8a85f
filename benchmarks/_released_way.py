"""The baseline: a network computed, and a video tested, the way the authors' released code does it.

Tensors are `[N*U, C, T, H, W]`, contiguous; every convolution is a `Conv3d`; the 4D convolution is one over
(U, T, H*W) between two permutations that copy (their faster form; their loop over taps cannot be trained with
today's PyTorch). Written anew from the description; nothing of theirs is copied.
"""

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from v4d.data.batch import Batch, normalise
from v4d.evaluation.algorithm1 import unit_sections
from v4d.models import InputSpec, VideoNet
from v4d.models.layers import Bottleneck, Residual4D


class ReleasedWay(nn.Module):
    """The same weights and results as a `VideoNet` with the preset `released`, x `[N, U, C, T, H, W]`."""

    def __init__(self, network: VideoNet):
        super().__init__()
        self.units = network.units
        self.stem, self.stem_bn = as_conv3d(network.stem.conv), as_norm3d(network.stem.bn)
        self.steps = nn.ModuleList(
            Block4D(step) if isinstance(step, Residual4D) else Block(step)
            for step in network.unit_steps()[1:]
        )
        self.fc = network.fc

    def forward(self, x_NUCTHW: Tensor) -> Tensor:
        units = x_NUCTHW.shape[1]
        x = F.relu(self.stem_bn(self.stem(x_NUCTHW.flatten(0, 1))), inplace=True)
        x = F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
        for step in self.steps:
            x = step(x, units)
        return self.fc(x.mean((2, 3, 4))).unflatten(0, (-1, units)).mean(1)


def training_step(network: nn.Module, batch: Batch) -> Callable[[], float]:
    """A step of their loop on a fixed batch, in float32; `network` is a `ReleasedWay`, or DDP around it."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def step() -> float:
        x = normalise(batch.frames, InputSpec()).contiguous()
        loss = F.cross_entropy(network(x), batch.class_index)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()  # as their loop does, for its meters

    return step


class Block(nn.Module):
    def __init__(self, block: nn.Module):
        super().__init__()
        names = ("1", "2", "3") if isinstance(block, Bottleneck) else ("1", "2")
        self.convs = nn.ModuleList(as_conv3d(getattr(block, f"conv{name}")) for name in names)
        self.norms = nn.ModuleList(as_norm3d(getattr(block, f"bn{name}")) for name in names)
        self.shortcut = None
        if block.downsample is not None:
            self.shortcut = nn.Sequential(as_conv3d(block.downsample[0]), as_norm3d(block.downsample[1]))

    def forward(self, x: Tensor, units: int) -> Tensor:
        y = x
        for conv, norm in zip(self.convs[:-1], self.norms[:-1], strict=True):
            y = F.relu(norm(conv(y)), inplace=True)
        y = self.norms[-1](self.convs[-1](y))
        y += x if self.shortcut is None else self.shortcut(x)
        return F.relu(y, inplace=True)


class Block4D(nn.Module):
    def __init__(self, block: Residual4D):
        super().__init__()
        weight = block.conv.weight.detach()[..., 0]
        self.conv = nn.Conv3d(*weight.shape[1::-1], weight.shape[2:], padding=(1, 1, 0), bias=False)
        self.conv.weight.data.copy_(weight)

    def forward(self, x: Tensor, units: int) -> Tensor:
        channels, frames, height, width = x.shape[1:]
        y = x.view(-1, units, channels, frames, height, width).transpose(1, 2).contiguous()
        y = self.conv(y.view(-1, channels, units, frames, height * width))
        y = y.view(-1, channels, units, frames, height, width).transpose(1, 2).contiguous()
        return x + y.view_as(x)


@torch.inference_mode()
def brute_force(network: nn.Module, x_NUCTHW: Tensor, units_trained: int) -> Tensor:
    """Probabilities `[N, K]`: the whole network on every combination of units, one after the other."""
    sections = unit_sections(x_NUCTHW.shape[1], units_trained)
    scores = [network(x_NUCTHW[:, list(units)]).softmax(-1) for units in itertools.product(*sections)]
    return torch.stack(scores).mean(0)


def as_conv3d(conv: nn.Module) -> nn.Conv3d:
    """A convolution of ours as a `Conv3d` on NCTHW tensors."""
    weight = conv.weight.detach()
    if isinstance(conv, nn.Conv3d):
        stride, padding = conv.stride, conv.padding
    elif conv.kernel_size[0] != conv.kernel_size[1]:  # over (T, H*W)
        weight, stride, padding = weight.unsqueeze(-1), (1, 1, 1), (conv.padding[0], 0, 0)
    else:
        weight, stride, padding = weight.unsqueeze(2), (1, *conv.stride), (0, *conv.padding)
    result = nn.Conv3d(*weight.shape[1::-1], weight.shape[2:], stride, padding, bias=False)
    result.weight.data.copy_(weight)
    return result


def as_norm3d(norm: nn.BatchNorm2d) -> nn.BatchNorm3d:
    """A batch norm of ours on NCTHW tensors."""
    result = nn.BatchNorm3d(norm.num_features)
    result.load_state_dict(norm.state_dict())
    return result
