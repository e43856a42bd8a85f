"""Spatial augmentation: pure pickers of parameters, and one step that applies them to all frames of a video.

A picker gets the frame's size and a generator and returns numbers; nothing is drawn anywhere else. All
work is on uint8 `[F, H, W, 3]`, as it comes from the shard and goes to the device.

Every crop is a box of whole source pixels that is resized to the network's input in one step (bilinear,
antialiased), which differs from PIL's resize of the same box by at most 2 levels. Where a protocol resizes
the frame first and crops then (short-side jitter), the box is that crop traced back onto the frame.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from v4d.config import CropConfig
from v4d.data import color
from v4d.errors import V4DError

MULTI_SCALES = (1.0, 0.875, 0.75, 0.66)
"""Crop sides as shares of the short side (released code)."""
MULTI_SCALE_STEPS_APART = 1
MULTI_SCALE_PLACES = (
    *((0, 0), (4, 0), (0, 4), (4, 4)),  # corners
    (2, 2),
    *((0, 2), (4, 2), (2, 4), (2, 0)),  # middles of the edges
    *((1, 1), (3, 1), (1, 3), (3, 3)),  # quarter points
)
"""Places of the crop, x and y in quarters of the room it has (released code)."""
RESIZED_AREA = (0.08, 1.0)
RESIZED_RATIO = (3 / 4, 4 / 3)
_RESIZED_TRIES = 10


@dataclass(frozen=True)
class Box:
    """A rectangle of a frame, in pixels."""

    top: int
    """Rows above it."""
    left: int
    """Columns left of it."""
    height: int
    """Rows."""
    width: int
    """Columns."""


@dataclass(frozen=True)
class Augmentation:
    """What happens to every frame of a video alike."""

    box: Box
    """What is cut out, in source pixels."""
    size: int
    """Side of the result, pixels."""
    flip: bool = False
    """Left and right swapped."""
    colors: tuple[color.Operation, ...] = ()
    """Changes of colour, in order."""


def pick(
    config: CropConfig, height: int, width: int, generator: np.random.Generator, *, snap: bool = True
) -> Augmentation:
    """Draw one training augmentation for frames of the given size; `snap` as in `multi_scale_crop`.

    Raises:
        V4DError: the frames are too small for the crop asked for.
    """
    match config.kind:
        case "multi_scale":
            box = multi_scale_crop(height, width, config.size if snap else None, generator)
        case "short_side_jitter":
            box = short_side_jitter_crop(height, width, config.size, config.jitter, generator)
        case "random_resized":
            box = random_resized_crop(height, width, generator)
        case "centre":
            (box,) = spread_crops(height, width, config.size, 1)
        case _:
            raise ValueError(f"unknown kind of crop {config.kind!r}")
    flip = bool(generator.random() < config.flip)
    colors = color.pick(config.color_jitter, config.randaugment, generator)
    return Augmentation(box, config.size, flip, colors)


def multi_scale_crop(height: int, width: int, size: int | None, generator: np.random.Generator) -> Box:
    """Width and height drawn from four shares of the short side, at one of 13 fixed places (released).

    A side within 2 pixels of the network's `size` is that size, and is not resized (released).
    """
    sides = [int(min(height, width) * scale) for scale in MULTI_SCALES]
    if size is not None:
        sides = [size if abs(side - size) <= 2 and size <= min(height, width) else side for side in sides]
    steps = range(len(sides))
    pairs = [(i, j) for i in steps for j in steps if abs(i - j) <= MULTI_SCALE_STEPS_APART]
    i, j = pairs[generator.integers(len(pairs))]
    crop_height, crop_width = sides[i], sides[j]
    x, y = MULTI_SCALE_PLACES[generator.integers(len(MULTI_SCALE_PLACES))]
    return Box(y * ((height - crop_height) // 4), x * ((width - crop_width) // 4), crop_height, crop_width)


def short_side_jitter_crop(
    height: int, width: int, size: int, jitter: tuple[int, ...], generator: np.random.Generator
) -> Box:
    """A random square of `size` in the frame resized to a random short side in `jitter` (paper, Non-local).

    Raises:
        V4DError: the crop may be larger than the resized frame.
    """
    low, high = jitter
    if size > low:
        raise V4DError(f"training.crop: a crop of {size} does not fit a short side of {low} (jitter)")
    short_side = generator.integers(low, high + 1)
    side = max(1, round(size * min(height, width) / short_side))
    top = generator.integers(height - side + 1)
    left = generator.integers(width - side + 1)
    return Box(int(top), int(left), side, side)


def random_resized_crop(height: int, width: int, generator: np.random.Generator) -> Box:
    """A random share of the area in a random ratio (Inception); in the middle where none fits."""
    for _ in range(_RESIZED_TRIES):
        area = height * width * generator.uniform(*RESIZED_AREA)
        ratio = np.exp(generator.uniform(*np.log(RESIZED_RATIO)))
        crop_height, crop_width = round((area / ratio) ** 0.5), round((area * ratio) ** 0.5)
        if 0 < crop_height <= height and 0 < crop_width <= width:
            top = generator.integers(height - crop_height + 1)
            left = generator.integers(width - crop_width + 1)
            return Box(int(top), int(left), crop_height, crop_width)
    side = min(height, width)
    return Box((height - side) // 2, (width - side) // 2, side, side)


def spread_crops(
    height: int, width: int, size: int | None, crops: int, short_side: int | None = None
) -> list[Box]:
    """Square crops for testing, evenly over the longer side and in the middle of the shorter one.

    Three of 256 in 320x256 lie at x = 0, 32, 64. One, in the middle, where the frame has no room to move.

    Args:
        size: side of the crop; None takes the whole short side.
        short_side: the frame is thought resized to this first; None leaves it.

    Raises:
        V4DError: the crop is larger than the frame. It is not scaled up in silence: `short_side` does that.
    """
    short, long = min(height, width), max(height, width)
    side = short if size is None else round(size * short / (short_side or short))
    if side > short:
        raise V4DError(
            f"a crop of {size} does not fit frames of {width}x{height}"
            + (f" with the short side at {short_side}" if short_side else "")
            + ": set a smaller crop, or testing.short_side"
        )
    room, middle = long - side, (short - side) // 2
    places = [room // 2]
    if crops > 1 and room > 0:
        places = [round(i * room / (crops - 1)) for i in range(crops)]
    if width >= height:
        return [Box(middle, place, side, side) for place in places]
    return [Box(place, middle, side, side) for place in places]


def apply(
    frames_FHWC: torch.Tensor, augmentation: Augmentation, out_FHWC: torch.Tensor | None = None
) -> torch.Tensor:
    """Crop, flip, resize and colour every frame alike.

    Args:
        frames_FHWC: uint8 `[F, H, W, 3]`, on any device.
        out_FHWC: where the result goes, uint8 `[F, size, size, 3]`; None makes room for it.
    """
    box, size = augmentation.box, augmentation.size
    if out_FHWC is None:
        out_FHWC = frames_FHWC.new_empty((len(frames_FHWC), size, size, 3))
    frames = frames_FHWC[:, box.top : box.top + box.height, box.left : box.left + box.width]
    if augmentation.flip:
        frames = frames.flip(2)  # before the resize, which copies the crop anyway
    if (box.height, box.width) == (size, size):
        out_FHWC.copy_(frames)
    else:
        _resize(frames, out_FHWC)
    if augmentation.colors:
        out_FHWC.copy_(color.apply(out_FHWC, augmentation.colors))
    return out_FHWC


def _resize(frames_FHWC: torch.Tensor, out_FHWC: torch.Tensor) -> None:
    """`F.interpolate(mode="bilinear", antialias=True)` straight into `out`, which saves a copy of it.

    NHWC memory seen as NCHW is "channels last", for which torch's uint8 resize is vectorised. CUDA has none
    for uint8: there it is done in floats.
    """
    frames, out = frames_FHWC.permute(0, 3, 1, 2), out_FHWC.permute(0, 3, 1, 2)
    size = list(out.shape[2:])
    if frames.device.type == "cpu":
        torch.ops.aten._upsample_bilinear2d_aa.out(frames, size, False, None, None, out=out)
    else:
        out.copy_(_resized_in_floats(frames, size))


def _resized_in_floats(frames_FCHW: torch.Tensor, size: list[int]) -> torch.Tensor:
    resized = F.interpolate(frames_FCHW.float(), size, mode="bilinear", antialias=True)
    return resized.round_().clamp_(0, 255)
