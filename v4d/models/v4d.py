"""I3D-S and V4D: one class, built from a table of stages and the places of 4D blocks."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from v4d.models.freezing import frozen_modules
from v4d.models.layers import BasicBlock, Bottleneck, Residual4D
from v4d.models.layout import channels_last, fold, regroup
from v4d.models.numerics import check_device

STAGES = ("res2", "res3", "res4", "res5")


@dataclass(frozen=True)
class Backbone:
    """A table of I3D-S (section 3.3 and table 1 of the paper); no stage strides over time."""

    block: type[BasicBlock] | type[Bottleneck]
    depths: tuple[int, int, int, int]  # residual blocks in res2..res5
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    stem_size: int = 7
    temporal: tuple[bool, bool, bool, bool] = (False, False, True, True)  # kernels over time in the stage


@dataclass(frozen=True)
class Preset:
    """Where the paper and the released code differ."""

    batch_norm: bool  # in the residual 4D blocks
    zero_init: bool  # of the 4D kernels
    unit_dropout: bool  # a mask a unit, scores averaged; else one mask on the video's features


class Stem(nn.Module):
    """1 x k x k convolution of stride 2, batch norm, ReLU, 1x3x3 max pooling of stride 2."""

    def __init__(self, width: int, size: int):
        super().__init__()
        self.conv = nn.Conv2d(3, width, size, 2, padding=size // 2, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(3, 2, padding=1)

    def forward(self, x: Tensor, units: int, frames: int) -> Tensor:
        return self.pool(self.relu(self.bn(self.conv(x))))


class Stage(nn.Module):
    """Residual blocks, and behind some of them a residual 4D block.

    The 4D blocks stand beside the backbone's list, not in it, so that a backbone's weights have the same
    names with and without them. Positions count from 1: "2" is the 4D block behind the second block.
    """

    def __init__(self, blocks: list[nn.Module], blocks4d: dict[int, Residual4D]):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.blocks4d = nn.ModuleDict({str(position): block for position, block in blocks4d.items()})

    def steps(self) -> list[nn.Module]:
        """All blocks in the order of computation."""
        result = []
        for position, block in enumerate(self.blocks, 1):
            result.append(block)
            if str(position) in self.blocks4d:
                result.append(self.blocks4d[str(position)])
        return result


class VideoNet(nn.Module):
    """I3D-S with residual 4D blocks: V4D, or without any of them I3D-S and (with several units) TSN.

    x `[N, U, C, T, H, W]`, normalised, any H and W -> logits `[N, num_classes]`.
    Made by `create_model`; `spec` holds the arguments that make it again.
    """

    def __init__(self, backbone: Backbone, preset: Preset, places: dict[str, tuple[int, ...]], spec: dict):
        super().__init__()
        self.spec = spec
        self.units, self.frames, self.num_classes = spec["units"], spec["frames"], spec["num_classes"]
        self.gradient_checkpointing = False
        self.frozen: set[str] = set()  # see `freezing`
        self._unit_dropout = preset.unit_dropout
        self.stem = Stem(backbone.widths[0], backbone.stem_size)
        channels = backbone.widths[0]
        for index, (name, depth, width) in enumerate(
            zip(STAGES, backbone.depths, backbone.widths, strict=True)
        ):
            blocks = []
            for number in range(depth):
                stride = 2 if number == 0 and index > 0 else 1
                blocks.append(backbone.block(channels, width, stride, backbone.temporal[index]))
                channels = width * backbone.block.expansion
            blocks4d = {
                position: Residual4D(channels, spec["kernel"], preset.batch_norm, preset.zero_init)
                for position in places.get(name, ())
            }
            self.add_module(name, Stage(blocks, blocks4d))
        self.dropout = nn.Dropout(spec["dropout"])
        self.fc = nn.Linear(channels, spec["num_classes"])
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                module.weight.data = channels_last(module.weight.data)
        nn.init.normal_(self.fc.weight, std=0.001)
        nn.init.zeros_(self.fc.bias)

    def train(self, mode: bool = True) -> "VideoNet":
        """As `nn.Module.train`, but what is frozen stays in evaluation mode."""
        super().train(mode)
        for module in frozen_modules(self):
            module.training = False
        return self

    def steps(self) -> list[nn.Module]:
        """Stem and blocks in the order of computation, each called with `(x, units, frames)`."""
        return [step for steps in self.stages().values() for step in steps]

    def stages(self) -> dict[str, list[nn.Module]]:
        """The steps by the name of their stage, the stem's as `conv1`."""
        return {"conv1": [self.stem], **{name: getattr(self, name).steps() for name in STAGES}}

    def blocks4d(self) -> dict[str, Residual4D]:
        """The residual 4D blocks by place (`"res3.2"`)."""
        return {
            f"{name}.{position}": block
            for name in STAGES
            for position, block in getattr(self, name).blocks4d.items()
        }

    def forward_features(self, x_NUCTHW: Tensor) -> Tensor:
        """Activations in front of the pooling: `[N*U*T, C', H/32, W/32]`, channels last."""
        units, frames = x_NUCTHW.shape[1], x_NUCTHW.shape[3]
        x = fold(x_NUCTHW)
        for step in self.steps():
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = _checkpointed(step, x, units, frames)
            else:
                x = step(x, units, frames)
        return x

    def pool(self, features: Tensor, frames: int) -> Tensor:
        """Mean over space and time: `[N*U*T, C', h, w]` -> `[N*U, C']`."""
        height, width = features.shape[2:]
        return regroup(features, frames, height, width).mean((2, 3, 4))

    def head(self, features: Tensor, units: int, frames: int) -> Tensor:
        """Global average pooling, dropout, classifier: `[N*U*T, C', h, w]` -> logits `[N, num_classes]`."""
        pooled = self.pool(features, frames).unflatten(0, (-1, units))  # [N, U, C']
        if self._unit_dropout:
            return self.fc(self.dropout(pooled)).mean(1)
        return self.fc(self.dropout(pooled.mean(1)))

    def forward(self, x_NUCTHW: Tensor) -> Tensor:
        features = self.forward_features(x_NUCTHW)
        return self.head(features, x_NUCTHW.shape[1], x_NUCTHW.shape[3])

    def _apply(self, fn, recurse=True):
        """Whatever brings the network to a GPU comes through here: have its convolutions checked, once."""
        super()._apply(fn, recurse)
        if self.fc.weight.is_cuda:
            check_device(self.fc.weight.device)
        return self

    def to(self, *args, **kwargs):
        """As `nn.Module.to`. A `memory_format` changes nothing: the network always works channels last.

        (PyTorch's own would fail at the 3x3x3 kernels, which have no `torch.channels_last`.)
        """
        kwargs.pop("memory_format", None)
        return super().to(*args, **kwargs) if args or kwargs else self


def _checkpointed(step: nn.Module, x: Tensor, units: int, frames: int) -> Tensor:
    """The step, with its activations computed again in the backward pass."""
    if torch.compiler.is_compiling():  # then a batch is counted once by itself, and contexts are refused
        return checkpoint(step, x, units, frames, use_reentrant=False)
    return checkpoint(step, x, units, frames, use_reentrant=False, context_fn=partial(_contexts, step))


def _contexts(step: nn.Module):
    """What surrounds a checkpointed step: nothing at first, quiet batch norms when it is repeated."""
    return nullcontext(), _quiet_batch_norms(step)


@contextmanager
def _quiet_batch_norms(step: nn.Module) -> Iterator[None]:
    """Let batch norms use a batch's statistics without counting them again."""
    norms = [m for m in step.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)
