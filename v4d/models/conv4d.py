"""4D convolution over (U, T, H, W), and the layer that applies it to frames folded into the batch.

Eq. 1 of the paper: `Y[o, u, t, h, w] = sum of W[o, c, s, p, q, r] * X[c, u+s, t+p, h+q, w+r]` over c and the
taps s, p, q, r. No library has it, and none needs to: where the kernel is 1 wide over neighbouring dimensions
these are one dimension of a 2D or 3D convolution, and any kernel is a sum over its taps along U.

Measured on a CPU (oneDNN, one core, forward, 512 channels at 28x28, 4x4 frames, kernel 3x3x1x1): one 3D
convolution over (U, T, H*W) 776 ms, the taps along U stacked into the channels of one 2D convolution 491 ms,
a 2D convolution over (T, H*W) for each tap 455 ms, and less without the taps that meet only padding.
So a CPU takes the last form, a GPU the one with a single launch.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from v4d.models.convolution import ConvBackend, conv3d, conv_rows, shift_and_add
from v4d.models.layout import regroup


def conv4d(x_NCUTHW: Tensor, weight: Tensor, padding: tuple[int, int, int, int] | None = None) -> Tensor:
    """Stride 1 convolution: x `[N, C, U, T, H, W]`, weight `[O, C, S, P, Q, R]` -> `[N, O, U', T', H', W']`.

    `padding` is the number of zeros on either side of (U, T, H, W); None keeps the sizes (odd kernels).
    Fast where x lies in memory as `N U T H W C`; then the result does, too.
    """
    S, P, Q, R = weight.shape[2:]
    pad = (S // 2, P // 2, Q // 2, R // 2) if padding is None else tuple(padding)
    wide = (Q, R, pad[2], pad[3]) != (1, 1, 0, 0)
    if (S, pad[0]) == (1, 0):
        return _conv_units(x_NCUTHW, weight[:, :, 0], pad[1:])
    if not wide and (P, pad[1]) == (1, 0):
        return _conv_over_u(x_NCUTHW, weight[:, :, :, 0, 0], pad[0])
    if not wide and x_NCUTHW.is_cuda and ConvBackend.conv3d:
        return _conv_over_ut(x_NCUTHW, weight[..., 0], pad[:2])
    return shift_and_add(x_NCUTHW, weight, pad[0], lambda x, tap: _conv_units(x, tap, pad[1:]))


def _conv_units(x_NCUTHW: Tensor, weight: Tensor, pad: tuple[int, ...]) -> Tensor:
    """P x Q x R, every unit by itself: a 2D convolution over (T, H*W), or a 3D one."""
    U, T, H, W = x_NCUTHW.shape[2:]
    if (*weight.shape[3:], *pad[1:]) == (1, 1, 0, 0):
        y = conv_rows(regroup(x_NCUTHW, T, H * W), weight[..., 0], pad[0])
        return regroup(y, U, y.shape[2], H, W)
    y = conv3d(regroup(x_NCUTHW, T, H, W), weight, 1, pad)
    return regroup(y, U, *y.shape[2:])


def _conv_over_u(x_NCUTHW: Tensor, weight: Tensor, pad: int) -> Tensor:
    """S x 1 x 1 x 1 as a 2D convolution over (U, T*H*W)."""
    U, T, H, W = x_NCUTHW.shape[2:]
    y = conv_rows(regroup(x_NCUTHW, U, T * H * W), weight, pad)
    return regroup(y, y.shape[2], T, H, W)


def _conv_over_ut(x_NCUTHW: Tensor, weight: Tensor, pad: tuple[int, ...]) -> Tensor:
    """S x P x 1 x 1 as a 3D convolution over (U, T, H*W)."""
    U, T, H, W = x_NCUTHW.shape[2:]
    y = F.conv3d(regroup(x_NCUTHW, U, T, H * W), weight, padding=(*pad, 0))
    return regroup(y, *y.shape[2:4], H, W)


class Conv4d(nn.Module):
    """ "Same" 4D convolution without bias on frames folded into the batch.

    Weight `[O, C, S, P, Q, R]`, initialised as PyTorch does its own convolutions.
    """

    def __init__(self, channels: int, out_channels: int, kernel: tuple[int, int, int, int]):
        super().__init__()
        self.kernel = tuple(kernel)
        self.weight = nn.Parameter(torch.empty(out_channels, channels, *self.kernel))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, x: Tensor, units: int, frames: int) -> Tensor:
        """`[N*U*T, C, H, W]` -> `[N*U*T, O, H, W]`."""
        height, width = x.shape[2:]
        return regroup(conv4d(regroup(x, units, frames, height, width), self.weight), height, width)

    def taps(self, x: Tensor, frames: int, first: int, last: int) -> list[Tensor]:
        """Every unit convolved with single taps along U; tap 0 is the middle one.

        x `[M*T, C, H, W]` -> for each tap from `first` to `last` a tensor `[M*T, O, H, W]`. A convolution
        over U is the sum of these, each from the unit that many places on; Algorithm 1 forms the sums itself.
        """
        height, width = x.shape[2:]
        middle = self.kernel[0] // 2
        weight = self.weight[:, :, middle + first : middle + last + 1]
        stacked = weight.movedim(2, 0).flatten(0, 1).unsqueeze(2)  # [taps*O, C, 1, P, Q, R]
        y = regroup(conv4d(regroup(x, 1, frames, height, width), stacked), height, width)
        return list(y.chunk(last - first + 1, dim=1))

    def extra_repr(self) -> str:
        """Channels and kernel, for `print(model)`."""
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}, kernel={self.kernel}"
