"""Which frames of a video the network sees: pure functions from a frame count to indices.

U action units of T frames each, `stride` source frames apart; a unit's window is T * stride frames
long. Frames are counted in the source video, whatever a shard keeps of them. The rules are those of
the authors' released code; `tests/data/released_eval_sampling.json` holds its indices for 56 cases.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ClipSpec:
    """What a network sees of a video: units of frames."""

    units: int
    """Units (U)."""
    frames: int
    """Frames of a unit (T)."""
    stride: int
    """Source frames from one frame of a unit to the next."""


def train_indices(
    num_frames: int, units: int, frames: int, stride: int, generator: np.random.Generator
) -> np.ndarray:
    """One window at a random place in each of `units` equal sections.

    A window never leaves the video. Where the sections are too short to move in, the starts are drawn
    from the whole video and sorted, so that units stay in order; a video shorter than one window
    starts at 0 and repeats its last frames.

    Returns:
        int64 `[units, frames]`, ascending along both axes, each in `[0, num_frames)`.

    Raises:
        ValueError: a count is below 1.
    """
    _check_positive(num_frames=num_frames, units=units, frames=frames, stride=stride)
    window = frames * stride
    room = (num_frames - window + 1) // units
    if room > 0:
        starts = np.arange(units) * room + generator.integers(room, size=units)
    elif num_frames > max(units, window):
        starts = np.sort(generator.integers(num_frames - window + 1, size=units))
    else:
        starts = np.zeros(units, dtype=np.int64)
    return _windows(starts, num_frames, frames, stride)


def eval_indices(
    num_frames: int, units: int, frames: int, stride: int, *, centred: bool = False
) -> np.ndarray:
    """The same windows every time: at the start of each section as released, or in its middle.

    With P = num_frames - frames * stride + 1 possible starts, unit u begins at floor(u * P / U)
    (released; at 0 when num_frames <= U + T * stride - 1), or at floor((u + 1/2) * P / U) (centred).

    Returns:
        int64 `[units, frames]`, ascending along both axes, each in `[0, num_frames)`.

    Raises:
        ValueError: a count is below 1.
    """
    _check_positive(num_frames=num_frames, units=units, frames=frames, stride=stride)
    window = frames * stride
    places = num_frames - window + 1
    unit = np.arange(units)
    if centred:
        starts = (2 * unit + 1) * max(places, 0) // (2 * units)
    elif num_frames > units + window - 1:
        starts = unit * places // units
    else:
        starts = np.zeros(units, dtype=np.int64)
    return _windows(starts, num_frames, frames, stride)


def _windows(starts: np.ndarray, num_frames: int, frames: int, stride: int) -> np.ndarray:
    """Step by `stride` from each start while the index is below `num_frames - stride`, then stay there."""
    steps_left = np.maximum(0, -((starts + stride - num_frames) // stride))  # ceil, not below 0
    steps = np.minimum(np.arange(frames), steps_left[:, None])
    return starts[:, None] + stride * steps


def _check_positive(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
