"""I3D-S, TSN and V4D: one class, built from a table of backbones and the places of 4D blocks."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from v4d.models.base import BatchNorm, InputSpec, VideoModel
from v4d.models.convolution import conv_by_blocks
from v4d.models.imagenet import load_imagenet
from v4d.models.layers import BasicBlock, Bottleneck, Residual4D
from v4d.models.layout import channels_last, fold, regroup
from v4d.models.registry import DEPTHS, RESNETS, STAGES, Places, Start4d, places_of_blocks


@dataclass(frozen=True)
class Backbone:
    """A table of I3D-S (section 3.3 and table 1 of the paper); no stage strides over time."""

    block: type[BasicBlock] | type[Bottleneck]
    """Its residual block."""
    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    """Channels of the 3x3 convolutions in res2 to res5."""
    stem_size: int = 7
    """Height and width of the first kernel."""
    temporal: tuple[bool, bool, bool, bool] = (False, False, True, True)
    """Whether a stage has kernels over time."""


@dataclass(frozen=True)
class Preset:
    """Where the paper and the released code differ."""

    batch_norm: bool
    """In the residual 4D blocks."""
    unit_dropout: bool
    """A mask a unit, scores averaged; else one mask on the video's features."""


BACKBONES = {
    "resnet18": Backbone(BasicBlock),
    "resnet50": Backbone(Bottleneck),
    # For demonstrations on a CPU, trained from nothing on clips of about 56 pixels.
    "tiny": Backbone(BasicBlock, (16, 32, 64, 128), stem_size=3),
}
PRESETS = {
    "paper": Preset(batch_norm=True, unit_dropout=False),
    "released": Preset(batch_norm=False, unit_dropout=True),
}


NORMALISATIONS = {
    "imagenet": InputSpec(),
    "pytorchvideo": InputSpec(mean=(0.45,) * 3, std=(0.225,) * 3),
}
"""How a network's pixels are normalised, by the key `normalisation`."""


class Stem(nn.Module):
    """1 x k x k convolution of stride 2, batch norm, ReLU, 1x3x3 max pooling of stride 2."""

    def __init__(self, width: int, size: int):
        super().__init__()
        self.conv = nn.Conv2d(3, width, size, 2, padding=size // 2, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(3, 2, padding=1)

    def forward(self, x: Tensor, units: int, frames: int) -> Tensor:
        """`[N*U*T, 3, H, W]` -> `[N*U*T, width, H/4, W/4]`."""
        even = x.shape[2] % 2 == x.shape[3] % 2 == 0
        blocks = x.is_cuda and even and self.conv.kernel_size == (7, 7)
        y = conv_by_blocks(x, self.conv.weight) if blocks else self.conv(x)
        return self.pool(self.relu(self.bn(y)))


class Stage(nn.Module):
    """Residual blocks, and behind some of them a residual 4D block.

    The 4D blocks stand beside the backbone's list, not in it, so that a backbone's weights have the same
    names with and without them. Positions count from 1: "2" is the 4D block behind the second block.
    """

    def __init__(self, blocks: list[nn.Module], blocks4d: dict[int, Residual4D]):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.blocks4d: Any = nn.ModuleDict({str(position): block for position, block in blocks4d.items()})

    def steps(self) -> list[nn.Module]:
        """All blocks in the order of computation."""
        result = []
        for position, block in enumerate(self.blocks, 1):
            result.append(block)
            if str(position) in self.blocks4d:
                result.append(self.blocks4d[str(position)])
        return result


class VideoNet(VideoModel):
    """I3D-S with residual 4D blocks: V4D, or without any of them I3D-S and (with several units) TSN.

    x `[N, U, C, T, H, W]`, normalised, any H and W -> logits `[N, num_classes]`.
    """

    gradient_checkpointing = False

    def __init__(
        self,
        *,
        arch: str,
        preset: str,
        blocks: Places | None,
        kernel: Any,
        dropout: float,
        normalisation: str,
        start4d: Start4d | None,
        **shape: Any,
    ):
        network, rules = RESNETS[arch], PRESETS[preset]
        places, kernel = places_of_blocks(arch, preset, blocks), tuple(network.kernel or kernel)
        options = {"preset": preset, "blocks": places, "kernel": kernel, "dropout": float(dropout)}
        if normalisation != "imagenet":
            options["normalisation"] = normalisation
        super().__init__(arch=arch, **shape, **options)
        self.input = NORMALISATIONS[normalisation]
        self._has_4d = network.kernel is None  # R18++'s convolution stands where 4D blocks do, and is none
        backbone, start = BACKBONES[network.backbone], (self._has_4d and start4d) or Start4d()
        self._unit_dropout, self._norm_lr_factor = rules.unit_dropout, start.norm_lr_factor
        self.stem = Stem(backbone.widths[0], backbone.stem_size)
        channels = backbone.widths[0]
        for index, (name, depth) in enumerate(zip(STAGES, DEPTHS[network.backbone], strict=True)):
            residual: list[nn.Module] = []
            for number in range(depth):
                stride = 2 if number == 0 and index > 0 else 1
                width = backbone.widths[index]
                residual.append(backbone.block(channels, width, stride, backbone.temporal[index]))
                channels = width * backbone.block.expansion
            blocks4d = {
                position: Residual4D(
                    channels,
                    kernel,
                    rules.batch_norm,
                    zero=start.kernel == "zero",
                    norm_weight=start.norm_weight,
                )
                for position in places.get(name, ())
            }
            self.add_module(name, Stage(residual, blocks4d))
        self.clip_level = not any(block.reach for block in self.blocks4d().values())
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, self.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                module.weight.data = channels_last(module.weight.data)
        nn.init.normal_(self.fc.weight, std=0.001)
        nn.init.zeros_(self.fc.bias)

    @property
    def stages(self) -> dict[str, Stage]:
        """The residual stages by name, in the order of computation."""
        return {name: getattr(self, name) for name in STAGES}

    def blocks4d(self) -> dict[str, Residual4D]:
        """The residual 4D blocks by place (`"res3.2"`)."""
        return {
            f"{name}.{position}": block
            for name, stage in self.stages.items()
            for position, block in stage.blocks4d.items()
            if self._has_4d
        }

    def unit_steps(self) -> list[nn.Module]:
        """Stem and blocks in the order of computation."""
        return [self.stem, *(step for stage in self.stages.values() for step in stage.steps())]

    def freezable(self) -> dict[str, list[nn.Module]]:
        """What the paper's training stages hold fixed.

        - `blocks4d_zero`: the residual 4D blocks, each made the identity first (kernel zero, batch norm new);
        - `backbone`: everything but the 4D blocks and the classifier, batch norm statistics included;
        - `batchnorm`: all batch norm layers of the backbone, statistics, weights and biases.
        """
        blocks4d = [*self.blocks4d().values()]
        backbone = [*(step for step in self.unit_steps() if step not in blocks4d), self.dropout]
        norms: list[nn.Module] = [m for part in backbone for m in part.modules() if isinstance(m, BatchNorm)]
        parts: dict[str, list[nn.Module]] = {"blocks4d_zero": [*blocks4d]} if self._has_4d else {}
        return parts | {"backbone": backbone, "batchnorm": norms}

    def before_freezing(self, what: str) -> None:
        """`blocks4d_zero` makes each 4D block the identity."""
        if what == "blocks4d_zero":
            for block in self.blocks4d().values():
                block.reset_to_identity()

    def emptied_by(self, what: str) -> tuple[str, ...]:
        """Of `blocks4d_zero` the 4D blocks, which the next stage starts as `start4d` says."""
        return tuple(f"{stage}.blocks4d." for stage in self.spec["blocks"] if what == "blocks4d_zero")

    def lr_factors(self) -> dict[str, float]:
        """Of the weights of batch norms in 4D blocks, where `start4d.norm_lr_factor` is set."""
        blocks = self.blocks4d().items() if self._norm_lr_factor != 1 else ()
        places = [place.split(".") for place, block in blocks if block.bn is not None]
        return {f"{stage}.blocks4d.{position}.bn.weight": self._norm_lr_factor for stage, position in places}

    def new_in_init(self) -> dict[str, str]:
        """The classifier and the 4D blocks, or the extra convolution of R18++."""
        words = "4D blocks" if self._has_4d else "extra convolution"
        return super().new_in_init() | {f"{stage}.blocks4d.": words for stage in self.spec["blocks"]}

    def load_image_weights(self, source: str | Path | Mapping[str, Any]) -> None:
        """Inflate a 2D ResNet of torchvision; see `v4d.models.imagenet`."""
        load_imagenet(self, source)

    def parts(self) -> dict[str, list[nn.Module]]:
        """Stem (`conv1`), stages, their 4D blocks one by one, classifier."""
        parts: dict[str, list[nn.Module]] = {"conv1": [self.stem]}
        kind = "4D" if self._has_4d else "extra"
        for name, stage in self.stages.items():
            parts[name] = [*stage.blocks]
            parts |= {f"{name}.{position} {kind}": [block] for position, block in stage.blocks4d.items()}
        return parts | {"head": [self.fc]}

    def forward_features(self, x_NUCTHW: Tensor) -> Tensor:
        """Activations in front of the pooling: `[N*U*T, C', H/32, W/32]`, channels last."""
        units, frames = x_NUCTHW.shape[1], x_NUCTHW.shape[3]
        x = fold(x_NUCTHW)
        for step in self.unit_steps():
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = _checkpointed(step, x, units, frames)
            else:
                x = step(x, units, frames)
        return x

    def unit_logits(self, features: Tensor, frames: int) -> Tensor:
        """Logits of each unit by its own features: `[M*T, C', h, w]` -> `[M, num_classes]`."""
        return self._classified(self.pool(features, frames))

    def pool(self, features: Tensor, frames: int) -> Tensor:
        """Mean over space and time: `[N*U*T, C', h, w]` -> `[N*U, C']`, in float32 at least."""
        height, width = features.shape[2:]
        dtype = torch.promote_types(features.dtype, torch.float32)
        return regroup(features, frames, height, width).mean((2, 3, 4), dtype=dtype)

    def head(self, features: Tensor, units: int, frames: int) -> Tensor:
        """Global average pooling, dropout, classifier: `[N*U*T, C', h, w]` -> logits `[N, num_classes]`."""
        pooled = self.pool(features, frames).unflatten(0, (-1, units))  # [N, U, C']
        if self._unit_dropout:
            return self._classified(self.dropout(pooled)).mean(1)
        return self._classified(self.dropout(pooled.mean(1)))

    def _classified(self, pooled: Tensor) -> Tensor:
        """Logits outside of autocast: rounded to bf16, 1.4 % of videos had two classes at the top."""
        with nullcontext() if pooled.is_meta else torch.autocast(pooled.device.type, enabled=False):
            return self.fc(pooled.to(self.fc.weight.dtype))

    def forward(self, x_NUCTHW: Tensor) -> Tensor:
        """Features, then head."""
        features = self.forward_features(x_NUCTHW)
        return self.head(features, x_NUCTHW.shape[1], x_NUCTHW.shape[3])

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """As `nn.Module.to`. A `memory_format` changes nothing: the network always works channels last.

        (PyTorch's own would fail at the 3x3x3 kernels, which have no `torch.channels_last`.)
        """
        kwargs.pop("memory_format", None)
        return super().to(*args, **kwargs) if args or kwargs else self


def _checkpointed(step: nn.Module, x: Tensor, units: int, frames: int) -> Tensor:
    """The step, with its activations computed again in the backward pass."""
    if torch.compiler.is_compiling():
        # Under torch.compile batch norm statistics are updated once anyway, and context_fn is unsupported.
        return checkpoint(step, x, units, frames, use_reentrant=False)

    def contexts() -> tuple[Any, Any]:
        return nullcontext(), _quiet_batch_norms(step)  # at first, and when it is repeated

    return checkpoint(step, x, units, frames, use_reentrant=False, context_fn=contexts)


@contextmanager
def _quiet_batch_norms(step: nn.Module) -> Iterator[None]:
    """Let batch norms use a batch's statistics without counting them again."""
    norms: list[Any] = [m for m in step.modules() if isinstance(m, BatchNorm) and m.training]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)
