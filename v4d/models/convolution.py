"""Convolutions that several layers share, each in the form that is right and fast on its device.

cuDNN 9.8 to 9.14 has 3D convolutions in half precision that are disabled, slow or wrong (PyTorch issues
163539 and 166122). `parity` compares them with float64 when a network comes to a GPU, and clears
`ConvBackend.conv3d` where they differ; then sums of 2D convolutions are used, which are slower and right.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from v4d.models.layout import regroup


class ConvBackend:
    """What this process has found about its device; see `parity`."""

    conv3d = True


def conv_rows(x_NCDL: Tensor, weight: Tensor, padding: int) -> Tensor:
    """`F.conv2d` with a kernel K x 1: x `[N, C, D, L]`, weight `[O, C, K, 1]` -> `[N, O, D', L]`."""
    eager_cpu = x_NCDL.device.type == "cpu" and not torch.compiler.is_compiling()
    if eager_cpu and torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu"):
        return _ConvRows.apply(x_NCDL, weight, padding)
    return F.conv2d(x_NCDL, weight, padding=(padding, 0))


class _ConvRows(torch.autograd.Function):
    """The same, but with the weight's gradient as one matrix product a tap.

    oneDNN takes 1.6 to 3 times as long for it: 292 ms against 178 for 512 channels on 16 frames of 28x28,
    533 against 179 for 1024 at 14x14, one core.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return F.conv2d(x, weight, padding=(padding, 0))

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        for_x = for_weight = None
        if ctx.needs_input_grad[0]:
            how = (None, (1, 1), (ctx.padding, 0), (1, 1), False, (0, 0), 1, (True, False, False))
            for_x = torch.ops.aten.convolution_backward(grad, x, weight, *how)[0]
        if ctx.needs_input_grad[1]:
            taps = [_tap_gradient(x, grad, tap - ctx.padding) for tap in range(weight.shape[2])]
            for_weight = torch.stack(taps, dim=-1).unsqueeze(-1)
        return for_x, for_weight, None


def _tap_gradient(x: Tensor, grad: Tensor, offset: int) -> Tensor:
    """The gradient `[O, C]` of a tap that looks `offset` further along D, where it does not meet padding."""
    first, stop = max(0, -offset), min(grad.shape[2], x.shape[2] - offset)
    seen = x[:, :, first + offset : max(first, stop) + offset].movedim(1, -1).flatten(0, -2)
    given = grad[:, :, first : max(first, stop)].movedim(1, -1).flatten(0, -2)
    return given.t() @ seen


def conv_by_blocks(x_NCHW: Tensor, weight: Tensor) -> Tensor:
    """`F.conv2d(x, weight, stride=2, padding=3)` of a 7x7 kernel and even sizes, as 4x4 on blocks of 2x2.

    A block's 12 values and 4 zeros are the channels: cuDNN has fast kernels for 16 channels and slow ones for
    3. On an H200, 256 frames of 224x224 in bf16, forward and the weight's gradient: 3.0 ms and 1.5 ms so.
    """
    height, width = x_NCHW.shape[2] // 2, x_NCHW.shape[3] // 2
    rows = x_NCHW.unflatten(3, (width, 2)).unflatten(2, (height, 2)).permute(0, 2, 4, 3, 5, 1).flatten(3)
    taps = F.pad(weight, (1, 0, 1, 0)).unflatten(3, (4, 2)).unflatten(2, (4, 2)).permute(0, 2, 4, 3, 5, 1)
    free = -rows.shape[3] % 8  # what fast kernels want channels to be a multiple of
    return F.conv2d(
        F.pad(rows, (0, free, 2, 1, 2, 1)).movedim(-1, 1), F.pad(taps.flatten(3), (0, free)).movedim(-1, 1)
    )


def conv3d(x_NCDHW: Tensor, weight: Tensor, stride: int, padding: tuple[int, ...]) -> Tensor:
    """As `F.conv3d`, with a stride over (H, W) only."""
    if not _conv3d_is_right(x_NCDHW):
        return conv3d_by_planes(x_NCDHW, weight, stride, padding)
    if not x_NCDHW.is_cuda:
        # oneDNN, 3x3x3 at 512 channels: channels last takes 1.2 (7x7) to 1.6 times (4x4) as long, forward and
        # backward, because oneDNN reorders the weight at every call; the two copies cost 2 %.
        x_NCDHW = x_NCDHW.contiguous()
    return F.conv3d(x_NCDHW, weight, None, (1, stride, stride), padding)


def _conv3d_is_right(x: Tensor) -> bool:
    """oneDNN 3.12 gives undefined weight gradients for bf16 3x3x3 kernels on 2 frames (see `ConvBackend`)."""
    if x.is_cuda:
        return ConvBackend.conv3d
    if x.device.type != "cpu":  # "meta": costs are counted there
        return True
    return x.dtype.itemsize >= 4 and not torch.is_autocast_enabled(x.device.type)


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
    if padding > taps // 2:  # no tap covers the whole result then; no layer here uses this
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
