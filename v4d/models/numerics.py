"""Do this GPU's convolutions compute what they should? Asked once a process, when a network comes to it.

cuDNN 9.8 to 9.14 has 3D convolutions in half precision that are wrong for some shapes (PyTorch issues 163539
and 166122), and a network trained with them learns badly without any error. So every form of convolution that
the networks use is compared with float64, small, forward and both gradients, in bf16 and in TF32. One that
cannot be run at all ("unable to find an engine") is as bad as a wrong one.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from v4d.models.convolution import ConvBackend

TOLERANCE = {torch.bfloat16: 2e-2, torch.float32: 4e-3}
"""Largest error allowed, relative to the largest value. One rounding of the result to bf16 (8 bits) is 4e-3;
TF32 rounds the inputs to 11 bits, which adds up to about 1e-3. A wrong kernel is off by the order of 1."""


@dataclass(frozen=True)
class ConvCase:
    """A kind of convolution: x `[N, C, *sizes]`, kernel and stride over the same dimensions."""

    what: str
    """What a message calls it."""
    sizes: tuple[int, ...]
    """Of the input."""
    kernel: tuple[int, ...]
    """Its extents."""
    stride: tuple[int, ...]
    """Along each dimension."""
    channels: int = 64
    """Of the input; the output has 64."""


CASES_2D = (
    ConvCase("1x7x7 of the stem", (28, 28), (7, 7), (2, 2), channels=3),
    ConvCase("1x7x7 of the stem on blocks of 2x2", (14, 14), (4, 4), (1, 1), channels=16),
    ConvCase("1x1x1", (14, 14), (1, 1), (1, 1)),
    ConvCase("1x1x1, stride 2", (14, 14), (1, 1), (2, 2)),
    ConvCase("1x3x3 over frames", (14, 14), (3, 3), (1, 1)),
    ConvCase("1x3x3 over frames, stride 2", (14, 14), (3, 3), (2, 2)),
    ConvCase("3x1x1 over (T, H*W)", (4, 49), (3, 1), (1, 1)),
)
CASES_3D = (
    ConvCase("3x3x3", (4, 7, 7), (3, 3, 3), (1, 1, 1)),
    ConvCase("3x3x3, stride 2", (4, 14, 14), (3, 3, 3), (1, 2, 2)),
    ConvCase("3x3x1x1 over (U, T, H*W)", (4, 4, 49), (3, 3, 1), (1, 1, 1)),
)
Conv = Callable[..., Tensor]
_checked: set[torch.device] = set()


def check_device(device: torch.device) -> None:
    """Compare this device's convolutions with float64, once a process; warn and avoid those that are wrong.

    Wrong 3D convolutions are replaced by sums of 2D ones (`ConvBackend.conv3d`); for wrong 2D ones there is
    nothing but the warning.
    """
    if device in _checked:
        return
    _checked.add(device)
    wrong_3d, wrong_2d = wrong_cases(CASES_3D, device), wrong_cases(CASES_2D, device)
    versions = f"cuDNN {torch.backends.cudnn.version()}, PyTorch {torch.__version__}"
    if wrong_3d:
        ConvBackend.conv3d = False
        warnings.warn(
            f"3D convolutions are wrong on {device} ({versions}): {'; '.join(wrong_3d)}. "
            "Sums of 2D convolutions are used instead, which is slower; install another cuDNN.",
            stacklevel=2,
        )
    if wrong_2d:
        warnings.warn(
            f"2D convolutions are wrong on {device} ({versions}): {'; '.join(wrong_2d)}. "
            "Results on this machine are not to be trusted.",
            stacklevel=2,
        )


def wrong_cases(
    forms: tuple[ConvCase, ...], device: torch.device | str, conv2d: Conv = F.conv2d, conv3d: Conv = F.conv3d
) -> list[str]:
    """Which forms differ from float64 on this device by more than the tolerance, and by how much."""
    wrong = []
    for form in forms:
        for dtype, tolerance in TOLERANCE.items():
            name = f"{form.what} in {'bf16' if dtype == torch.bfloat16 else 'TF32'}"
            try:
                error = relative_error(form, device, dtype, conv2d if len(form.sizes) == 2 else conv3d)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as failure:
                why = str(failure).strip().partition("\n")[0]
                wrong.append(f"{name} fails: {why}")
                continue
            if not error <= tolerance:  # also where the error is NaN
                wrong.append(f"{name} is off by {error:.1e} of the largest value")
    return wrong


@contextmanager
def _plain_gradients_in_tf32() -> Iterator[None]:
    """Autograd as it is by default, whatever surrounds the call that brought the network to its device.

    cuDNN's convolutions are in TF32. (Not by `cudnn.flags`, which fails where this setting has been used.)
    """
    setting: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = setting.fp32_precision
    setting.fp32_precision = "tf32"
    no_cuda_autocast, no_cpu_autocast = (torch.autocast(kind, enabled=False) for kind in ("cuda", "cpu"))
    try:
        with torch.inference_mode(False), torch.enable_grad(), no_cuda_autocast, no_cpu_autocast:
            yield
    finally:
        setting.fp32_precision = before


@_plain_gradients_in_tf32()
def relative_error(form: ConvCase, device: torch.device | str, dtype: torch.dtype, conv: Conv) -> float:
    """The largest error of the result and both gradients, channels last, relative to the largest value."""
    generator = torch.Generator().manual_seed(0)
    channels_last = torch.channels_last if len(form.sizes) == 2 else torch.channels_last_3d
    given = [
        torch.randn(shape, generator=generator, device="cpu").to(dtype).to(memory_format=channels_last)
        for shape in ((2, form.channels, *form.sizes), (64, form.channels, *form.kernel))
    ]
    padding = tuple(extent // 2 for extent in form.kernel)  # keeps the sizes at stride 1
    results = {}
    for where, kind in ((device, dtype), ("cpu", torch.float64)):
        x, weight = (tensor.to(where, kind).requires_grad_() for tensor in given)
        run = conv if kind == dtype else _REFERENCE[len(form.sizes)]
        y = run(x, weight, None, form.stride, padding)
        # The gradient of sum(y^2)/2 is y: as large as the result, and different everywhere.
        gradients = torch.autograd.grad(y, (x, weight), y.detach().to(kind))
        results[kind] = [tensor.detach().to("cpu", torch.float64) for tensor in (y, *gradients)]
    pairs = zip(results[dtype], results[torch.float64], strict=True)
    return max(((ours - right).abs().max() / right.abs().max()).item() for ours, right in pairs)


_REFERENCE: dict[int, Conv] = {2: F.conv2d, 3: F.conv3d}
