"""4D convolution over (U, T, H, W), and the layer that applies it to frames folded into the batch.

Eq. 1 of the paper: `Y[o, u, t, h, w] = sum over c, s, p, q, r of W[o, c, s, p, q, r] * X[c, u+s, t+p, h+q, w+r]`.
No library has it, and none needs to: where the kernel is 1 wide over neighbouring dimensions these are one
dimension of a 2D or 3D convolution (see `layout`), and the general kernel is a sum over its taps along U.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from v4d.models.layout import regroup


def conv4d(x_NCUTHW: Tensor, weight: Tensor, padding: tuple[int, int, int, int] | None = None) -> Tensor:
    """Stride 1 convolution: x `[N, C, U, T, H, W]`, weight `[O, C, S, P, Q, R]` -> `[N, O, U', T', H', W']`.

    `padding` is the number of zeros on either side of (U, T, H, W); None keeps the size (odd kernels).
    Fast where x lies in memory as `N U T H W C`; then the result does, too.
    """
    kernel = tuple(weight.shape[2:])
    pad = tuple(k // 2 for k in kernel) if padding is None else tuple(padding)
    _, _, U, T, H, W = x_NCUTHW.shape
    S, P, Q, R = kernel
    if (Q, R, pad[2], pad[3]) != (1, 1, 0, 0):
        return _general(x_NCUTHW, weight, pad)
    if (S, pad[0]) == (1, 0):  # P x 1 x 1 for each unit by itself
        y = F.conv2d(regroup(x_NCUTHW, T, H * W), weight[:, :, 0, :, 0], padding=(pad[1], 0))
    elif (P, pad[1]) == (1, 0):
        y = F.conv2d(regroup(x_NCUTHW, U, T * H * W), weight[:, :, :, 0, 0], padding=(pad[0], 0))
    else:
        y = F.conv3d(regroup(x_NCUTHW, U, T, H * W), weight[..., 0], padding=(pad[0], pad[1], 0))
    return regroup(y, U + 2 * pad[0] - S + 1, T + 2 * pad[1] - P + 1, H, W)


def _general(x_NCUTHW: Tensor, weight: Tensor, pad: tuple[int, ...]) -> Tensor:
    """The sum over the S taps along U, each a 3D convolution of all units at once."""
    _, _, U, T, H, W = x_NCUTHW.shape
    S = weight.shape[2]
    if (S, pad[0]) == (1, 0):
        y = F.conv3d(regroup(x_NCUTHW, T, H, W), weight[:, :, 0], padding=pad[1:])
        return regroup(y, U, *y.shape[2:])
    x = F.pad(x_NCUTHW.movedim(1, -1), (0, 0) * 4 + (pad[0], pad[0])).movedim(-1, 1)
    units = U + 2 * pad[0] - S + 1
    total = None
    for s in range(S):
        y = F.conv3d(regroup(x[:, :, s : s + units], T, H, W), weight[:, :, s], padding=pad[1:])
        total = y if total is None else total + y
    return regroup(total, units, *total.shape[2:])


class Conv4d(nn.Module):
    """ "Same" 4D convolution without bias on frames folded into the batch.

    Weight `[O, C, S, P, Q, R]`, initialised as PyTorch does its own convolutions.
    """

    def __init__(self, channels: int, out_channels: int, kernel: tuple[int, int, int, int]):
        super().__init__()
        self.kernel = tuple(kernel)
        self.weight = nn.Parameter(torch.empty(out_channels, channels, *self.kernel))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, x: Tensor, units: int, frames: int) -> Tensor:
        """`[N*U*T, C, H, W]` -> `[N*U*T, O, H, W]`."""
        height, width = x.shape[2:]
        return regroup(conv4d(regroup(x, units, frames, height, width), self.weight), height, width)

    def taps(self, x: Tensor, frames: int, first: int, last: int) -> list[Tensor]:
        """Every unit convolved with single taps along U; tap 0 is the middle one.

        x `[M*T, C, H, W]` -> for each tap from `first` to `last` a tensor `[M*T, O, H, W]`. A convolution over
        U is the sum of these, each taken from the unit that many places on; Algorithm 1 forms the sums itself.
        """
        height, width = x.shape[2:]
        middle = self.kernel[0] // 2
        weight = self.weight[:, :, middle + first : middle + last + 1]
        stacked = weight.movedim(2, 0).flatten(0, 1).unsqueeze(2)  # [taps*O, C, 1, P, Q, R]
        y = regroup(conv4d(regroup(x, 1, frames, height, width), stacked), height, width)
        return list(y.chunk(last - first + 1, dim=1))

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}, kernel={self.kernel}"
