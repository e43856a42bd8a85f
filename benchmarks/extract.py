"""How fast clips become JPEG frames: ten seconds of 340x256 to 300 frames of 320x256, quality 90.

    python benchmarks/extract.py

CPU time a clip, of all threads and processes; methods take turns within one run. Trust the ratios.
"""

import argparse
import contextlib
import os
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import baselines
import footage
import pyarrow as pa
import pyarrow.parquet as pq

from v4d import config
from v4d.config import FramesConfig
from v4d.preprocessing.decode import ClipBytes, decode_clip
from v4d.preprocessing.frames import extract_part

PYAV = FramesConfig(size="320x256", quality=90, stride=1, decoder="pyav", timeout=120)
DECORD = FramesConfig(size="320x256", quality=90, stride=1, decoder="decord", timeout=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "v4d_benchmark")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    clips = footage.make_clips(args.folder, args.clips)
    methods: dict[str, Callable[[Path], object]] = {
        "decord[p], PIL resize, PIL JPEG": lambda clip: baselines.extract_pil(clip, 90),
        "v4d, decord": lambda clip: decode_clip(_bytes(clip), DECORD),
        "v4d, PyAV planes": lambda clip: decode_clip(_bytes(clip), PYAV),
        "decode alone (PyAV)": decode_only,
    }
    print(f"{footage.machine()}, {os.cpu_count()} cores; {args.clips} clips")
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(args.rounds):
        for name, method in methods.items():
            for clip in clips:
                begun = time.process_time()
                method(clip)
                seconds[name].append(time.process_time() - begun)
    first = statistics.median(next(iter(seconds.values())))
    print(f"{'CPU time of extraction':<36}{'ms a clip':>10}{'speed':>8}")
    for name, values in seconds.items():
        print(f"{name:<36}{1e3 * statistics.median(values):>10.0f}{first / statistics.median(values):>7.1f}x")
    wall = whole_stage(clips, args.folder)
    print(f"{'the stage, 2 processes, wall clock':<36}{1e3 * wall:>10.0f}")


def decode_only(clip: Path) -> int:
    with av.open(str(clip)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        return sum(1 for _ in container.decode(video=0))


def whole_stage(clips: list[Path], folder: Path) -> float:
    """Seconds a clip of the stage as the workflow runs it: tar in, shard and ledger out, start counted."""
    rows = []
    document = {"name": "x", "dataset": {"name": "x", "source": "synthetic", "max_bad_share": 0}}
    dataset = config.build(config.resolve(document)).dataset
    tar = folder / dataset.paths.clips("train", "part_0")
    tar.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(tar, "w") as archive:
        for number, clip in enumerate(clips):
            archive.add(clip, f"{clip.stem}.mp4")
            rows.append(
                {"video_id": clip.stem, "class_index": number, "status": "ok", "reason": "", "fps": 0.0}
            )
    counts = dict.fromkeys(("num_frames", "width", "height", "bytes", "source_width", "source_height"), 0)
    pq.write_table(pa.Table.from_pylist([row | counts for row in rows]), tar.with_suffix(".parquet"))
    begun = time.perf_counter()
    with contextlib.chdir(folder):
        extract_part(dataset, PYAV, "train", "part_0", threads=2)
    return (time.perf_counter() - begun) / len(clips)


def _bytes(clip: Path) -> ClipBytes:
    return ClipBytes(str(clip), 0, clip.stat().st_size)


if __name__ == "__main__":
    main()
