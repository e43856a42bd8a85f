"""Activation maps as something to look at: a contact sheet of all units, or a video.

Legend: U units, T frames of a unit, H, W of the frames, h, w of the maps.

`maps` are the contributions of places to a class's logit, float32 `[U, T, h, w]`; a unit's share is the sum
of its own.
"""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from v4d.errors import V4DError
from v4d.plotting.style import PICTURES, STYLE
from v4d.utils.files import atomic_path

VIDEOS = (".mp4", ".mkv", ".webm", ".mov")
STRENGTH = 0.55
"""How much of a picture the strongest evidence covers."""
COLOUR_KEPT = 0.35
"""Pictures are greyed to this share of their colour, which is the evidence's."""
SHORTEST_SIDE = 224
"""Small frames are shown enlarged, to at least this many pixels."""


def check_suffix(path: Path) -> None:
    """Refuse an output that is neither a picture nor a video.

    Raises:
        V4DError: says what may be written.
    """
    if path.suffix.lower() not in (*PICTURES, *VIDEOS):
        raise V4DError(
            f"{path}: write a contact sheet ({' '.join(PICTURES)}) or a video ({' '.join(VIDEOS)})"
        )


def overlaid(frames_UTHWC: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Frames with the evidence for the class over them, uint8 `[U, T, H, W, 3]`.

    Red for, blue against; one scale for the whole video, so that units and frames can be compared.
    """
    units, frames, height, width, _ = frames_UTHWC.shape
    flat = torch.from_numpy(maps).flatten(0, 1)[:, None]
    heat = F.interpolate(flat, size=(height, width), mode="bilinear", align_corners=False)[:, 0].numpy()
    heat = heat / max(float(np.abs(heat).max()), 1e-12)
    colours = matplotlib.colormaps["RdBu_r"]((heat + 1) / 2)[..., :3] * 255
    share = STRENGTH * np.sqrt(np.abs(heat))[..., None]
    plain = frames_UTHWC.reshape(-1, height, width, 3).astype(np.float32)
    plain += (plain.mean(-1, keepdims=True) - plain) * (1 - COLOUR_KEPT)
    mixed = plain * (1 - share) + colours * share
    return mixed.round().astype(np.uint8).reshape(units, frames, height, width, 3)


@matplotlib.rc_context(STYLE)
def contact_sheet(frames_UTHWC: np.ndarray, maps: np.ndarray, title: str, seconds: np.ndarray) -> Figure:
    """A row a unit, its frames from left to right, and what it contributes to the class's logit."""
    pictures = overlaid(frames_UTHWC, maps)
    units, frames, height, width, _ = pictures.shape
    side = 1.15
    figure = Figure((1.9 + side * frames * width / height, 0.9 + side * units), layout="constrained")
    grid = figure.subplots(units, frames + 1, width_ratios=[1.3] + [width / height] * frames, squeeze=False)
    shares = maps.sum((1, 2, 3))
    limit = max(float(np.abs(shares).max()), 1e-12)
    for unit, row in enumerate(grid):
        colour = "#b2182b" if shares[unit] >= 0 else "#2166ac"
        row[0].barh([0], [shares[unit]], 0.5, color=colour)
        row[0].set_xlim(-1.1 * limit, 1.1 * limit)
        row[0].axvline(0, color="#888888", linewidth=0.8)
        row[0].set_title(f"unit {unit + 1}: {shares[unit]:+.2f}", fontsize=8.5, fontweight="normal")
        row[0].set_axis_off()
        for frame, axes in enumerate(row[1:]):
            axes.imshow(pictures[unit, frame])
            axes.set_axis_off()
            axes.set_title(f"{seconds[unit, frame]:.2f} s", fontsize=7.5, fontweight="normal", pad=2)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
    return figure


def write_video(path: Path, frames_UTHWC: np.ndarray, maps: np.ndarray, title: str, rate: float) -> None:
    """All frames that the network saw, one after the other, with their maps and a bar a unit below.

    Raises:
        V4DError: the container or codec is not there.
    """
    import av

    pictures = _enlarged(overlaid(frames_UTHWC, maps))
    header = _text(title, pictures.shape[3])
    codec = "libvpx-vp9" if path.suffix.lower() == ".webm" else "libx264"
    with atomic_path(path) as temporary:
        try:
            with av.open(str(temporary), "w") as container:
                stream: Any = container.add_stream(codec, rate=Fraction(rate).limit_denominator(1000))
                stream.pix_fmt = "yuv420p"
                images = list(_composed(pictures, maps.sum((1, 2, 3)), header))
                stream.height, stream.width = images[0].shape[:2]
                for image in images:
                    for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                        container.mux(packet)
                for packet in stream.encode():
                    container.mux(packet)
        except av.FFmpegError as error:
            raise V4DError(f"cannot write {path}: {error.strerror or error}") from error


def _composed(pictures: np.ndarray, shares: np.ndarray, header: np.ndarray) -> Iterator[np.ndarray]:
    """Title, picture and bars of every frame; even sizes, as yuv420p needs."""
    for unit, frames in enumerate(pictures):
        bars = _bars(shares, unit, frames.shape[2])
        for picture in frames:
            image = np.concatenate([header, picture, bars])
            yield np.ascontiguousarray(image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2])


def _bars(shares: np.ndarray, current: int, width: int, height: int = 36) -> np.ndarray:
    """A bar a unit, up for and down against; the unit that is shown is dark."""
    image = np.full((height, width, 3), 255, np.uint8)
    limit = max(float(np.abs(shares).max()), 1e-12)
    middle = height // 2
    for unit, share in enumerate(shares):
        left, right = (round(width * place / len(shares)) + 1 for place in (unit, unit + 1))
        colour = np.array((178, 24, 43) if share >= 0 else (33, 102, 172))
        if unit != current:
            colour = 255 - (255 - colour) * 2 // 5
        size = max(1, round(abs(share) / limit * (middle - 2)))
        rows = slice(middle - size, middle) if share >= 0 else slice(middle, middle + size)
        image[rows, left : right - 2] = colour
    image[middle] = 120
    return image


def _enlarged(pictures: np.ndarray) -> np.ndarray:
    """Whole multiples of the size, where it is small."""
    factor = -(-SHORTEST_SIDE // min(pictures.shape[2:4]))
    return pictures.repeat(factor, 2).repeat(factor, 3) if factor > 1 else pictures


def _text(title: str, width: int, height: int = 28) -> np.ndarray:
    """A line of text as a picture, uint8 `[height, width, 3]`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with matplotlib.rc_context(STYLE):
        figure = Figure((width / 100, height / 100), dpi=100)
        figure.text(6 / width, 0.5, title, va="center", fontsize=min(9.0, 1.25 * width / max(len(title), 1)))
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[:height, :width, :3].copy()
