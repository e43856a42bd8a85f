"""Shards, clips and tasks that the tests of shards, loader and extraction share."""

import io
import os
import subprocess
import time
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

from v4d.data.shards import ShardHeader, ShardReader, ShardWriter
from v4d.utils.ffmpeg import ffmpeg_binary


def picture(number: int, width: int = 72, height: int = 64) -> np.ndarray:
    """A smooth picture that differs for every number, uint8 `[height, width, 3]`."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 9 + number), np.cos(y / 7 - number / 3), np.sin((x + y) / 11 + 2 * number)]
    return (127 + 100 * np.stack(waves, -1)).astype(np.uint8)


def jpegs(count: int, *, first: int = 0, width: int = 72, height: int = 64) -> list[bytes]:
    return [
        simplejpeg.encode_jpeg(picture(first + n, width, height), quality=90, colorsubsampling="420")
        for n in range(count)
    ]


def pil_decode(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)))


def write_shard(
    path: Path,
    videos: dict[str, list[bytes]],
    *,
    stride: int = 1,
    num_frames: int | None = None,
    size=(72, 64),
) -> ShardReader:
    """A shard of the given frames, by video id; class indices count up."""
    with ShardWriter(path, ShardHeader(size=size, quality=90, stride=stride)) as writer:
        for number, (video_id, frames) in enumerate(videos.items()):
            writer.add(
                video_id,
                frames,
                class_index=number,
                num_frames=num_frames or len(frames) * stride,
                fps=25.0,
                size=size,
                source_size=(128, 128),
            )
    return ShardReader(path)


def write_records(folder: Path, *, shards: int = 3, videos: int = 5, frames: int = 40):
    """Some shards of different videos, and the records of all of them."""
    from v4d.data.dataset import VideoRecord

    records = []
    for shard in range(shards):
        names = [f"v{shard}_{n}" for n in range(videos)]
        contents = {name: jpegs(frames, first=1000 * shard + 50 * n) for n, name in enumerate(names)}
        path = folder / f"part_{shard}.lmdb"
        write_shard(path, contents)
        records += [VideoRecord(name, n, str(path), frames) for n, name in enumerate(names)]
    return records


def make_clip(
    path: Path, *, source: str = "testsrc2=size=96x64:rate=25", frames: int = 30, options=()
) -> Path:
    """A real clip of one of ffmpeg's own sources."""
    encoder = options or ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-g", "250", "-bf", "3")
    command = [ffmpeg_binary(), "-v", "error", "-y", "-f", "lavfi", "-i", source, "-frames:v", str(frames)]
    subprocess.run([*command, *encoder, str(path)], check=True)
    return path


# Tasks for child processes: they have to be importable there.


def double(number: int) -> int:
    return 2 * number


def double_slowly_at_first(number: int) -> int:
    time.sleep(0.3 if number == 0 else 0)
    return 2 * number


def misbehave(kind: str) -> str:
    if kind == "hang":
        time.sleep(3600)
    if kind == "die":
        os.kill(os.getpid(), 11)
    if kind == "raise":
        raise ValueError("no good")
    return kind


def decoded_sum(reader: ShardReader, video_id: str, index: int) -> int:
    return int(reader.frames(video_id, [index]).sum())
