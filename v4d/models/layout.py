"""The one place where units and frames are folded into the batch.

Legend: as in `v4d.models.base`.

Inside the network a tensor is `[N*U*T, C, H, W]` and lies in memory as `N U T H W C` (channels last).
Every kernel whose extent is 1 over some neighbouring dimensions can treat these as one, so a
convolution over time is a 2D convolution over `(T, H*W)` and so on: views of the same memory, no copies.
"""

import torch
from torch import Tensor


def fold(x_NUCTHW: Tensor) -> Tensor:
    """`[N, U, C, T, H, W]` -> `[N*U*T, C, H, W]`, channels last.

    Free where the input is a permuted view of `[N, U, T, H, W, C]` memory, as the loader makes it;
    else one copy.
    """
    return regroup(x_NUCTHW.transpose(1, 2), *x_NUCTHW.shape[4:])


def regroup(x: Tensor, *sizes: int) -> Tensor:
    """`[B, C, ...]` -> `[-1, C, *sizes]`: the same elements in the order of channels-last memory.

    With `x` in channels-last memory this is a view; else the one copy that brings it there.
    """
    channels = x.shape[1]
    return x.movedim(1, -1).reshape(-1, *sizes, channels).movedim(-1, 1)


def channels_last(x: Tensor) -> Tensor:
    """Rank 4 tensors (convolution weights, frames) to channels-last memory, others as they are."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def to_rows(x: Tensor, frames: int) -> Tensor:
    """`[M*T, C, H, W]` -> `[M, T, H, W, C]`, the memory itself, so that one can index units."""
    return x.movedim(1, -1).unflatten(0, (-1, frames))


def from_rows(rows: Tensor) -> Tensor:
    """The inverse of `to_rows`: `[M, T, H, W, C]` -> `[M*T, C, H, W]`."""
    return rows.flatten(0, 1).movedim(-1, 1)
