"""The videos of the made-up data set: the class is the order of two motions.

An object moves, rests, and moves back: left then right, right then left, up then down, down then up. What
leaves on one side comes in on the other. The rest is longer than one unit spans, so a single unit sees one
motion at most and cannot tell the class; units together, in their order, can. Start, speed, colour, shape,
size, background, noise and the moments of change vary. A video depends on the seed and its own id only.

In the task `order` each motion is one movement, so where the object is in the units tells the class as well.
In the task `motion` it jumps to a random place every few frames: where it is in a unit says nothing, only how
it moves inside the unit does, and the order of the units.
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from v4d.datasets.archives import add_member, new_archive
from v4d.errors import V4DError
from v4d.utils.ffmpeg import ffmpeg_binary
from v4d.utils.progress import progress

DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
SHAPES = ("disc", "square", "diamond", "ring")
RUNS = 4
"""Movements of each motion in the task `motion`, with a jump between two."""


@dataclass(frozen=True)
class Scene:
    """What is drawn: times in frames, places and sizes in pixels."""

    fps: int
    num_frames: int
    path: np.ndarray  # [num_frames, 2], the object's centre
    shape: str
    radius: float
    color: np.ndarray  # [3], 0..255
    background: np.ndarray  # [size, size, 3]
    noise: float


def write_archive(path: Path, members: list[tuple[str, str]], what: str, **look: Any) -> None:
    """Render videos, on all cores, into a gzip-compressed tar of `<video_id>.mp4`.

    Args:
        members: id and class of each video.
        what: the name of this work where progress is shown.
        look: as `draw_scene`.
    """

    def render(member: tuple[str, str]) -> tuple[str, bytes]:
        return member[0], encode(draw_scene(*member, **look))

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool, new_archive(path, 1) as archive:
        videos = pool.map(render, members)
        for video_id, video in progress(videos, total=len(members), what=what, unit="videos"):
            add_member(archive, f"{video_id}.mp4", video)


def draw_scene(
    video_id: str, name: str, *, size: int, rest_frames: int, seed: int, task: str = "order"
) -> Scene:
    """Draw the lots for one video.

    Args:
        name: its class, e.g. `left_then_right`.
        size: width and height, pixels.
        rest_frames: frames between the two motions, at least.
        seed: another one gives other videos of the same ids.
        task: `order` or `motion`.
    """
    digest = hashlib.sha256(f"{seed}/{video_id}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    radius = size * rng.uniform(0.12, 0.19)
    path = (_path_of_jumps if task == "motion" else _path)(rng, name, size, rest_frames)
    background = _background(rng, size)
    fps, shape = int(rng.choice([25, 30])), str(rng.choice(SHAPES))
    color = _contrasting(rng, background.mean(axis=(0, 1)))
    return Scene(fps, len(path), path, shape, radius, color, background, noise=rng.uniform(2, 8))


def _path(rng: np.random.Generator, name: str, size: int, rest: int) -> np.ndarray:
    """Rest, move, rest, move back, rest a moment: the object's centre in each frame, not wrapped.

    Nothing but the order of the motions may tell two classes of one axis apart:

    - what leaves on one side comes in on the other, and a motion covers about half of the way around: so the
      places of the rests, in their order, are as likely for "left then right" as for "right then left";
    - both rests last equally long, and the last one is just long enough that "moved left, then stopped"
      happens at the end as often as in the middle.
    """
    direction = np.array(DIRECTIONS[name.split("_then_")[0]], float)
    travel = size * rng.uniform(0.4, 0.6)
    lead, pause = (rest + int(n) for n in rng.integers(0, 7, 2))
    going, returning = (int(n) for n in rng.integers(14, 23, 2))
    tail = int(rng.integers(9, 13))
    away = np.concatenate(
        [
            np.zeros(lead),
            np.linspace(0, travel, going + 1)[1:],
            np.full(pause, travel),
            np.linspace(travel, 0, returning + 1)[1:],
            np.zeros(tail),
        ]
    )
    return rng.uniform(0, size, 2) + away[:, None] * direction


def _path_of_jumps(rng: np.random.Generator, name: str, size: int, rest: int) -> np.ndarray:
    """Move, rest, move back; both motions are `RUNS` runs, each of 8 to 10 frames from a random place.

    Units that begin at least 10 frames apart never share a run: their places are independent and uniform (the
    picture has no edges), and the same in all classes.
    """
    direction = np.array(DIRECTIONS[name.split("_then_")[0]], float)
    speed = size * rng.uniform(0.06, 0.09)  # pixels a frame
    steps = [direction * speed] * RUNS + [direction * 0] + [-direction * speed] * RUNS
    lengths = rng.integers(8, 11, len(steps))
    lengths[RUNS] = rest + rng.integers(0, 7)
    return np.concatenate(
        [
            rng.uniform(0, size, 2) + np.arange(n)[:, None] * step
            for n, step in zip(lengths, steps, strict=True)
        ]
    )


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """A smooth random texture: noise at three scales, tinted."""
    texture = np.zeros((size, size, 3))
    for cells, strength in ((3, 30), (8, 20), (20, 12)):
        coarse = rng.uniform(-1, 1, (cells, cells, 3))
        at = np.linspace(0, cells - 1, size)
        low = np.minimum(at.astype(int), cells - 2)
        part = (at - low)[:, None, None]
        rows = coarse[low] * (1 - part) + coarse[low + 1] * part
        part = (at - low)[None, :, None]
        texture += strength * (rows[:, low] * (1 - part) + rows[:, low + 1] * part)
    return np.clip(texture + rng.uniform(40, 110, 3), 0, 255)


def _contrasting(rng: np.random.Generator, background: np.ndarray) -> np.ndarray:
    """A colour that is brighter than the background's mean, by 110 levels or more in one channel."""
    while True:
        color = rng.uniform(80, 255, 3)
        if (color - background).max() >= 110 and color.mean() > background.mean() + 50:
            return color


def frames(scene: Scene, seed: int = 0) -> Iterator[np.ndarray]:
    """The frames of a scene, uint8 [size, size, 3]."""
    size = len(scene.background)
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:size, 0:size] + 0.5
    for x, y in scene.path:
        dx, dy = ((at + size / 2) % size - size / 2 for at in (columns - x, rows - y))  # around the edges
        distance = _distance(scene.shape, dx, dy, scene.radius)
        cover = np.clip(0.5 - distance, 0, 1)[..., None]  # one pixel of anti-aliasing
        image = scene.background * (1 - cover) + scene.color * cover
        image += rng.normal(0, scene.noise, (size, size, 1))
        yield np.clip(image, 0, 255).astype(np.uint8)


def _distance(shape: str, dx: np.ndarray, dy: np.ndarray, radius: float) -> np.ndarray:
    """Signed distance (pixels) to the outline, negative inside."""
    if shape == "square":
        return np.maximum(abs(dx), abs(dy)) - 0.85 * radius
    if shape == "diamond":
        return (abs(dx) + abs(dy) - 1.2 * radius) / np.sqrt(2)
    away = np.hypot(dx, dy)
    return abs(away - 0.7 * radius) - 0.3 * radius if shape == "ring" else away - radius


def encode(scene: Scene) -> bytes:
    """H.264 as it comes from a camera or a site: B-frames, a key frame every 250, and an audio track."""
    import ffmpeg

    size = len(scene.background)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "video.mp4"
        raw = {"format": "rawvideo", "pix_fmt": "rgb24", "s": f"{size}x{size}", "framerate": scene.fps}
        noise = {"format": "lavfi", "t": scene.num_frames / scene.fps}
        streams = ffmpeg.input("pipe:", **raw), ffmpeg.input("anoisesrc=amplitude=0.05:seed=1", **noise)
        video = {
            "vcodec": "libx264",
            "preset": "veryfast",
            "crf": 20,
            "g": 250,
            "bf": 2,
            "pix_fmt": "yuv420p",
        }
        audio = {"acodec": "aac", "audio_bitrate": "32k"}
        exact = {"threads": 1, "flags": "+bitexact", "fflags": "+bitexact", "map_metadata": -1}
        output = ffmpeg.output(*streams, str(target), **video, **audio, **exact)
        pixels = b"".join(frame.tobytes() for frame in frames(scene, seed=int(scene.radius * 1e6)))
        try:
            output.run(cmd=ffmpeg_binary(), input=pixels, quiet=True, overwrite_output=True)
        except ffmpeg.Error as error:
            last = error.stderr.decode(errors="replace").strip().split("\n")[-1]
            raise V4DError(f"ffmpeg could not make a synthetic video: {last}") from error
        return target.read_bytes()
