"""Colour jitter and RandAugment: off by default, drawn once for a video and the same for all its frames."""

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
        steps += [_jitter_step(name, drawn[name]) for name in generator.permutation(list(drawn)).tolist()]
    if randaugment > 0:
        names = generator.choice(list(REACH), size=RANDAUGMENT_OPERATIONS).tolist()
        steps += [_randaugment_step(name, randaugment, generator) for name in names]
    return tuple(steps)


def _jitter_step(name: str, amount: float) -> Operation:
    return Operation(name, amount if name == "hue" else 1 + amount)


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
    amount = step.amount
    match step.name:
        case "identity":
            return frames
        case "brightness":
            return tv.adjust_brightness(frames, amount)
        case "contrast":
            return tv.adjust_contrast(frames, amount)
        case "saturation":
            return tv.adjust_saturation(frames, amount)
        case "hue":
            return tv.adjust_hue(frames, amount)
        case "sharpness":
            return tv.adjust_sharpness(frames, amount)
        case "autocontrast":
            return tv.autocontrast(frames)
        case "equalize":
            return tv.equalize(frames)
        case "posterize":
            return tv.posterize(frames, 8 - round(amount))
        case "solarize":
            return tv.solarize(frames, 256 - amount)
        case "rotate":
            return _affine(frames, angle=amount)
        case "shear_x":
            return _affine(frames, shear=[amount, 0.0])
        case "shear_y":
            return _affine(frames, shear=[0.0, amount])
        case "translate_x":
            return _affine(frames, translate=[round(amount * width), 0])
        case "translate_y":
            return _affine(frames, translate=[0, round(amount * height)])
    raise ValueError(f"unknown operation {step.name!r}")


def _affine(frames: torch.Tensor, angle=0.0, translate=(0, 0), shear=(0.0, 0.0)) -> torch.Tensor:
    from torchvision.transforms.v2 import functional as tv

    return tv.affine(frames, angle=angle, translate=list(translate), scale=1.0, shear=list(shear))
