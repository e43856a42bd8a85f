"""Colour jitter and RandAugment: off by default, drawn once for a video and the same for all its frames."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

JITTER = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2}
"""Reach of each part of the colour jitter at strength 1 (SimCLR's proportions)."""
RANDAUGMENT_OPERATIONS = 2
MAGNITUDES = 30
"""RandAugment's scale: at this magnitude each operation is at its reach below."""
REACH = {
    "identity": 0.0,
    "autocontrast": 0.0,
    "equalize": 0.0,
    "brightness": 0.9,  # factor 1 - reach to 1 + reach
    "contrast": 0.9,
    "saturation": 0.9,
    "sharpness": 0.9,
    "rotate": 30.0,  # degrees
    "shear_x": 17.0,
    "shear_y": 17.0,
    "translate_x": 0.45,  # share of the side
    "translate_y": 0.45,
    "posterize": 4.0,  # bits taken away
    "solarize": 256.0,  # levels below 256 at which the threshold lies
}
_UNSIGNED = ("posterize", "solarize")


@dataclass(frozen=True)
class Operation:
    """One step, by name, and its amount: a factor, an angle, a share, bits or levels."""

    name: str
    """A key of `JITTER` or `REACH`."""
    amount: float = 0.0
    """0 where the operation takes none."""


def pick(jitter: float, randaugment: int, generator: np.random.Generator) -> tuple[Operation, ...]:
    """Draw the steps: colour jitter of a strength (0 to 1), then RandAugment of a magnitude (0 to 30)."""
    steps: list[Operation] = []
    if jitter > 0:
        drawn = {name: generator.uniform(-1, 1) * reach * jitter for name, reach in JITTER.items()}
        for name in generator.permutation(list(drawn)).tolist():
            steps.append(Operation(name, drawn[name] if name == "hue" else 1 + drawn[name]))
    if randaugment > 0:
        names = generator.choice(list(REACH), size=RANDAUGMENT_OPERATIONS).tolist()
        steps += [_randaugment_step(name, randaugment, generator) for name in names]
    return tuple(steps)


def _randaugment_step(name: str, magnitude: int, generator: np.random.Generator) -> Operation:
    amount = REACH[name] * magnitude / MAGNITUDES
    if name not in _UNSIGNED and generator.random() < 0.5:
        amount = -amount
    return Operation(name, 1 + amount if REACH[name] == 0.9 else amount)


def apply(frames_FHWC: torch.Tensor, steps: tuple[Operation, ...]) -> torch.Tensor:
    """Apply the steps to uint8 `[F, H, W, 3]`."""
    if not steps:
        return frames_FHWC
    frames_FCHW = frames_FHWC.permute(0, 3, 1, 2)
    for step in steps:
        frames_FCHW = _apply_step(frames_FCHW, step)
    return frames_FCHW.permute(0, 2, 3, 1)


def _apply_step(frames: torch.Tensor, step: Operation) -> torch.Tensor:
    from torchvision.transforms.v2 import functional as tv  # imported here: it takes half a second

    height, width = frames.shape[-2:]
    name, amount = step.name, step.amount
    if name in (*JITTER, "sharpness"):
        return getattr(tv, f"adjust_{name}")(frames, amount)
    if name in ("autocontrast", "equalize"):
        return getattr(tv, name)(frames)
    still = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    operations: dict[str, Callable[[], torch.Tensor]] = {
        "identity": lambda: frames,
        "posterize": lambda: tv.posterize(frames, 8 - round(amount)),
        "solarize": lambda: tv.solarize(frames, 256 - amount),
        "rotate": lambda: tv.affine(frames, **still | {"angle": amount}),
        "shear_x": lambda: tv.affine(frames, **still | {"shear": [amount, 0.0]}),
        "shear_y": lambda: tv.affine(frames, **still | {"shear": [0.0, amount]}),
        "translate_x": lambda: tv.affine(frames, **still | {"translate": [round(amount * width), 0]}),
        "translate_y": lambda: tv.affine(frames, **still | {"translate": [0, round(amount * height)]}),
    }
    if name not in operations:
        raise ValueError(f"unknown operation {name!r}")
    return operations[name]()
