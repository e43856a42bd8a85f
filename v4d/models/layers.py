"""Residual blocks of I3D-S and the residual 4D block, on frames folded into the batch (see `layout`).

Every module here maps `(x [N*U*T, C, H, W], units, frames)` to a tensor of the same kind.
"""

import torch
from torch import Tensor, nn

from v4d.models.conv4d import Conv4d
from v4d.models.convolution import conv3d, conv_rows
from v4d.models.layout import regroup


class FrameConv(nn.Conv2d):
    """1 x k x k: each frame by itself; the weight is torchvision's."""

    def __init__(self, channels: int, out_channels: int, stride: int = 1, size: int = 3):
        super().__init__(channels, out_channels, size, stride, padding=size // 2, bias=False)

    def forward(self, x: Tensor, frames: int) -> Tensor:  # type: ignore[override]
        """`[N*U*T, C, H, W]` -> `[N*U*T, O, H', W']`."""
        return super().forward(x)


class TimeConv(nn.Conv2d):
    """3 x 1 x 1 as a 2D convolution over `(T, H*W)`. Weight `[O, C, 3, 1]`."""

    def __init__(self, channels: int, out_channels: int):
        super().__init__(channels, out_channels, (3, 1), padding=(1, 0), bias=False)

    def forward(self, x: Tensor, frames: int) -> Tensor:  # type: ignore[override]
        """`[N*U*T, C, H, W]` -> `[N*U*T, O, H, W]`."""
        height, width = x.shape[2:]
        return regroup(conv_rows(regroup(x, frames, height * width), self.weight, 1), height, width)


class SpaceTimeConv(nn.Conv3d):
    """3 x 3 x 3 with a stride over space only. Weight `[O, C, 3, 3, 3]`."""

    def __init__(self, channels: int, out_channels: int, stride: int = 1):
        super().__init__(channels, out_channels, 3, (1, stride, stride), padding=1, bias=False)

    def forward(self, x: Tensor, frames: int) -> Tensor:  # type: ignore[override]
        """`[N*U*T, C, H, W]` -> `[N*U*T, O, H', W']`."""
        y = conv3d(regroup(x, frames, *x.shape[2:]), self.weight, self.stride[1], (1, 1, 1))
        return regroup(y, *y.shape[3:])


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, over time as well where `temporal`; ResNet-18."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int, temporal: bool):
        super().__init__()
        conv = SpaceTimeConv if temporal else FrameConv
        self.conv1, self.conv2 = conv(channels, width, stride), conv(width, width)
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(channels, width, stride)

    def forward(self, x: Tensor, units: int, frames: int) -> Tensor:
        """`[N*U*T, C, H, W]` -> `[N*U*T, width, H', W']`."""
        y = self.relu(self.bn1(self.conv1(x, frames)))
        y = self.bn2(self.conv2(y, frames))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


class Bottleneck(nn.Module):
    """1x1 (3x1x1 where `temporal`), 3x3 with the stride, 1x1 to four times the width; ResNet-50."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int, temporal: bool):
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = TimeConv(channels, width) if temporal else FrameConv(channels, width, size=1)
        self.conv2 = FrameConv(width, width, stride)
        self.conv3 = FrameConv(width, out_channels, size=1)
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(channels, out_channels, stride)

    def forward(self, x: Tensor, units: int, frames: int) -> Tensor:
        """`[N*U*T, C, H, W]` -> `[N*U*T, 4 * width, H', W']`."""
        y = self.relu(self.bn1(self.conv1(x, frames)))
        y = self.relu(self.bn2(self.conv2(y, frames)))
        y = self.bn3(self.conv3(y, frames))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)


def shortcut(channels: int, out_channels: int, stride: int) -> nn.Module | None:
    """The 1x1x1 convolution of a block that changes size, or None for the identity."""
    if stride == 1 and channels == out_channels:
        return None
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
    )


class Residual4D(nn.Module):
    """The residual 4D block: `Y = X + conv4d(X)`, or `Y = X + relu(bn(conv4d(X)))` with `batch_norm`.

    The first is the released code's, the second the paper's. With the kernel at zero, and the batch norm as
    it is made, both are the identity bit for bit. (Section 3.2 of the paper.) A kernel that starts there does
    not stay near: batch norm divides by the batch's deviation, so that after one step the branch is as large
    as any, in the direction of one batch. See "4D blocks at the start" in `docs/reproducing.md`.
    """

    def __init__(
        self,
        channels: int,
        kernel: tuple[int, int, int, int],
        batch_norm: bool,
        *,
        zero: bool = False,
        norm_weight: float = 1.0,
    ):
        super().__init__()
        self.conv = Conv4d(channels, channels, kernel)
        self.bn = nn.BatchNorm2d(channels) if batch_norm else None
        if zero:
            nn.init.zeros_(self.conv.weight)
        if self.bn is not None:
            nn.init.constant_(self.bn.weight, norm_weight)

    def reset_to_identity(self) -> None:
        """Kernel zero, batch norm as new: the block passes its input on, bit for bit."""
        nn.init.zeros_(self.conv.weight)
        if self.bn is not None:
            self.bn.reset_parameters()

    @property
    def reach(self) -> int:
        """How many units away a unit is seen; 0 for a kernel of extent 1 over U."""
        return self.conv.kernel[0] // 2

    def forward(self, x: Tensor, units: int, frames: int) -> Tensor:
        """`[N*U*T, C, H, W]` -> the same shape."""
        return self.merge(x, self.conv(x, units, frames))

    def taps(self, x: Tensor, frames: int, first: int, last: int) -> list[Tensor]:
        """See `MixingStep` (`v4d.models.base`)."""
        return self.conv.taps(x, frames, first, last)

    def merge(self, x: Tensor, convolved: Tensor) -> Tensor:
        """Add the finished convolution to the block's input."""
        if self.bn is not None:
            # ReLU with the derivative 1 at 0; torch's relu and clamp have 0 there. A kernel that starts at
            # zero gives only zeros here: with torch's derivative its gradient would be zero for ever.
            convolved = self.bn(convolved)
            # (Not by masked_fill, whose result is no longer channels last.)
            convolved = torch.where(convolved < 0, 0.0, convolved)
        return x + convolved
