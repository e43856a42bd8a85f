"""References that share no code with the package: Eq. 1, and the released networks from their tensors."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

HERE = Path(__file__).parent


def conv4d_reference(x_NCUTHW: Tensor, weight: Tensor, padding: tuple[int, ...]) -> Tensor:
    """Eq. 1 of the paper: the sum over all taps of the kernel, each a shifted input times a matrix."""
    S, P, Q, R = weight.shape[2:]
    pu, pt, ph, pw = padding
    padded = F.pad(x_NCUTHW, (pw, pw, ph, ph, pt, pt, pu, pu))
    sizes = [size - extent + 1 for size, extent in zip(padded.shape[2:], (S, P, Q, R), strict=True)]
    total = 0
    for tap in np.ndindex(S, P, Q, R):
        window = padded[(..., *(slice(at, at + size) for at, size in zip(tap, sizes, strict=True)))]
        total = total + torch.einsum("ncuthw,oc->nouthw", window, weight[(slice(None), slice(None), *tap)])
    return total


def released_example(layout: str) -> dict:
    """`5d` or `6d`: what the authors' network computes for made-up weights and a made-up video."""
    return json.loads((HERE / f"released_resnet50_{layout}.json").read_text())


def made_up(key: str, shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers that belong to a name."""
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(tuple(shape)).astype(np.float32))


def made_up_weights(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """A state dict filled by the recipe of the examples: by the names without `module.`."""
    return {name: _filled(name.removeprefix("module."), tuple(shape)) for name, shape in shapes.items()}


def _filled(name: str, shape: tuple[int, ...]) -> Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    z = made_up(name, shape)
    if name.endswith("running_var"):
        return 1 + 0.1 * z.abs()
    if len(shape) == 1 and name.endswith(".weight"):
        return 1 + 0.1 * z
    if len(shape) == 1:
        return 0.1 * z
    out_channels = shape[1] if len(shape) == 6 else shape[0]
    return z * (out_channels / z.numel()) ** 0.5


def released_resnet18_shapes(classes: int) -> dict[str, list[int]]:
    """The tensors of a released ResNet-18: 4D kernels behind the second blocks of layer2 and layer3."""
    shapes = {"conv1.weight": [64, 3, 1, 7, 7], **_norm("bn1", 64)}
    channels = 64
    for layer, width in enumerate((64, 128, 256, 512), 1):
        time = 3 if layer >= 3 else 1
        for block in (0, 1):
            name = f"layer{layer}.{block}"
            shapes[f"{name}.conv1.weight"] = [width, channels, time, 3, 3]
            shapes |= _norm(f"{name}.bn1", width)
            shapes[f"{name}.conv2.weight"] = [width, width, time, 3, 3]
            shapes |= _norm(f"{name}.bn2", width)
            if channels != width:
                shapes[f"{name}.downsample.0.weight"] = [width, channels, 1, 1, 1]
                shapes |= _norm(f"{name}.downsample.1", width)
            channels = width
        if layer in (2, 3):
            shapes[f"layer{layer}.2.tsa.weight"] = [3, width, width, 3, 1, 1]
    shapes = {f"module.base_model.{name}": shape for name, shape in shapes.items()}
    return shapes | {"module.new_fc.weight": [classes, 512], "module.new_fc.bias": [classes]}


def _norm(name: str, width: int) -> dict[str, list[int]]:
    kinds = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{kind}": [width] for kind in kinds} | {f"{name}.num_batches_tracked": []}


def released_logits(weights: dict[str, Tensor], x_NUCTHW: Tensor) -> Tensor:
    """The authors' network in evaluation mode on `[N*U, C, T, H, W]` tensors, from a state dict."""
    weights = {name.removeprefix("module.").removeprefix("base_model."): w for name, w in weights.items()}
    units = x_NUCTHW.shape[1]

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        kernel = weights[f"{name}.weight"]
        return F.conv3d(x, kernel, None, (1, stride, stride), [extent // 2 for extent in kernel.shape[2:]])

    def norm(x: Tensor, name: str) -> Tensor:
        kinds = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(weights[f"{name}.{kind}"] for kind in kinds))

    def residual(x: Tensor, name: str, stride: int) -> Tensor:
        last = 3 if f"{name}.conv3.weight" in weights else 2
        y = x
        for number in range(1, last + 1):
            strided = number == last - 1  # the 3x3 of a bottleneck, the first of a basic block
            y = norm(conv(y, f"{name}.conv{number}", stride if strided else 1), f"{name}.bn{number}")
            y = y.relu() if number < last else y
        if f"{name}.downsample.0.weight" in weights:
            x = norm(conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
        return (x + y).relu()

    def residual4d(x: Tensor, name: str) -> Tensor:
        kernel = weights[f"{name}.tsa.weight"]
        kernel = kernel.permute(1, 2, 0, 3, 4, 5) if kernel.dim() == 6 else kernel.unsqueeze(-1)
        x_NCUTHW = x.unflatten(0, (-1, units)).transpose(1, 2)
        y = conv4d_reference(x_NCUTHW, kernel, tuple(extent // 2 for extent in kernel.shape[2:]))
        return x + y.transpose(1, 2).flatten(0, 1)

    x = norm(conv(x_NUCTHW.flatten(0, 1), "conv1", 2), "bn1").relu()
    x = F.max_pool3d(x, (1, 3, 3), (1, 2, 2), (0, 1, 1))
    for layer in range(1, 5):
        members = {re.match(rf"layer{layer}\.(\d+)\.", name) for name in weights}
        for number in range(len({match[1] for match in members if match})):
            name = f"layer{layer}.{number}"
            if f"{name}.tsa.weight" in weights:
                x = residual4d(x, name)
            else:
                x = residual(x, name, 2 if layer > 1 and number == 0 else 1)
    logits = F.linear(x.mean((2, 3, 4)), weights["new_fc.weight"], weights["new_fc.bias"])
    return logits.unflatten(0, (-1, units)).mean(1)
