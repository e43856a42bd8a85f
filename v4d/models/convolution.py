"""Convolutions over (D, H, W) as one 3D convolution or as a sum of 2D ones, whichever may be trusted.

cuDNN 9.8 to 9.14 has 3D convolutions in half precision that are disabled, slow or wrong (PyTorch issues
163539 and 166122). `parity` compares them with float64 when a network comes to a GPU, and clears
`Trust.conv3d` where they differ; everything here then takes the 2D form, which is slower and right.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from v4d.models.layout import regroup


class Trust:
    """What this process has found about its device; see `parity`."""

    conv3d = True


def conv3d(x_NCDHW: Tensor, weight: Tensor, stride: int, padding: tuple[int, int, int]) -> Tensor:
    """As `F.conv3d`, with a stride over (H, W) only."""
    if Trust.conv3d or not x_NCDHW.is_cuda:
        return F.conv3d(x_NCDHW, weight, None, (1, stride, stride), padding)
    return conv3d_by_planes(x_NCDHW, weight, stride, padding)


def conv3d_by_planes(x_NCDHW: Tensor, weight: Tensor, stride: int, padding: tuple[int, ...]) -> Tensor:
    """The same by 2D convolutions, one for each tap along D."""

    def plane(x: Tensor, tap: Tensor) -> Tensor:
        y = F.conv2d(regroup(x, *x.shape[3:]), tap, None, stride, padding[1:])
        return regroup(y, x.shape[2], *y.shape[2:])

    return shift_and_add(x_NCDHW, weight, padding[0], plane)


def shift_and_add(
    x: Tensor, weight: Tensor, padding: int, conv: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """A stride 1 convolution along dimension 2 as a sum over its taps.

    x `[N, C, D, ...]`, weight `[O, C, K, ...]`; `conv(x[:, :, a:b], weight[:, :, k])` convolves over the
    other dimensions and keeps the `b - a` entries of D apart. What meets only padding is not computed.
    """
    taps = weight.shape[2]
    if padding > taps // 2:  # then no tap meets all of the result; nothing here needs it to be fast
        x, padding = F.pad(x, (0, 0) * (x.dim() - 3) + (padding, padding)), 0
    size = x.shape[2]
    out_size = size + 2 * padding - taps + 1
    total = conv(x[:, :, :out_size], weight[:, :, padding])
    for tap in range(taps):
        offset = tap - padding
        first, stop = max(0, -offset), min(out_size, size - offset)
        if offset != 0 and first < stop:
            total[:, :, first:stop] += conv(x[:, :, first + offset : stop + offset], weight[:, :, tap])
    return total
