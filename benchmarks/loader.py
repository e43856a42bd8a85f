"""How fast a training sample is read: 4 units of 8 frames of a ten-second clip, cropped to 224x224.

    python benchmarks/loader.py                  # all but memory: two minutes
    python benchmarks/loader.py --only memory    # 20,000 samples through one worker

Figures are CPU time (of all threads, and of all processes where workers read); methods take turns
within one run. Trust the ratios.
"""

import argparse
import gc
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import baselines
import footage
import psutil
import torch
from torch.utils.data import DataLoader, Dataset

from v4d.config import CropConfig, FramesConfig
from v4d.data import shards
from v4d.data.batch_sampler import Pick
from v4d.data.dataset import TrainSamples, VideoRecord, VideoTable
from v4d.data.loader import train_loader
from v4d.data.sampling import ClipSpec
from v4d.data.shards import ShardHeader, ShardReader, ShardWriter
from v4d.preprocessing.decode import ClipBytes, decode_clip

CROP = CropConfig(kind="multi_scale", size=baselines.SIZE, jitter=(256, 320), flip=0.5)
CLIP = ClipSpec(baselines.UNITS, baselines.FRAMES, baselines.STRIDE)
FRAME_SETTINGS = FramesConfig(size="320x256", quality=90, stride=1, decoder="auto", timeout=120)
COPIES = 6
"""Videos of the shard for each clip: enough bytes to tell the disk from its cache."""
BATCH = 6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "v4d_benchmark")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--only", choices=["sample", "workers", "cold", "start", "memory"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    clips = footage.make_clips(args.folder, args.clips)
    shard = make_shard(clips, args.folder / f"frames_{args.clips}.lmdb")
    reader = ShardReader(shard)
    counts = reader.counts()
    print(f"{footage.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    size = counts["bytes"] / counts["frames"] / 1e3
    print(f"{args.clips} clips of 300 frames, 340x256; JPEG {size:.1f} kB a frame")
    sections = {"sample": sample, "workers": workers, "cold": cold, "start": start}
    if args.only == "memory":
        memory(records(reader))
    for name, section in sections.items():
        if args.only in (None, name):
            section(clips, reader, args.rounds)


def make_shard(clips: list[Path], path: Path) -> Path:
    if not path.exists():
        decoded = [decode_clip(ClipBytes(str(c), 0, c.stat().st_size), FRAME_SETTINGS) for c in clips]
        with ShardWriter(path, ShardHeader(size=(320, 256), quality=90)) as writer:
            for copy in range(COPIES):
                for clip, frames in zip(clips, decoded, strict=True):
                    writer.add(
                        f"{clip.stem}-{copy}",
                        frames.jpegs,
                        class_index=0,
                        num_frames=frames.num_frames,
                        fps=frames.fps,
                        size=frames.size,
                        source_size=frames.source_size,
                    )
    return path


def records(reader: ShardReader) -> list[VideoRecord]:
    return [VideoRecord(v, 0, str(reader.path), reader.num_frames(v)) for v in reader.video_ids]


def sample(clips: list[Path], reader: ShardReader, rounds: int) -> None:
    """One sample, in this process, page cache warm."""
    warm(reader.path)
    samples = TrainSamples(VideoTable(records(reader)), CLIP, CROP, 0)
    methods: dict[str, Callable] = {
        "released way (decord[p], PIL, floats)": lambda n, i, a, e: baselines.released(clips[n], i, a),
        "decord get_batch, torch uint8": lambda n, i, a, e: baselines.decord_batch(clips[n], i, a),
        "torchcodec get_frames_at, torch uint8": lambda n, i, a, e: baselines.torchcodec_batch(
            clips[n], i, a
        ),
        "v4d": lambda n, i, a, e: samples.__getitems__([Pick(e, n)]),
        # The clip's second copy in the shard: bytes that v4d has not just put into the processor's cache.
        "floor (fetch and decode only)": lambda n, i, a, e: baselines.floor(
            reader, samples.videos[n + len(clips)].video_id, i
        ),
    }
    methods = {name: method for name, method in methods.items() if runs(name, method, clips, samples)}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for turn in range(-1, rounds):  # the first one warms up
        plans = [samples._plan(Pick(turn + 1, n), samples.videos[n]) for n in range(len(clips))]
        # In turns, each on all clips, and each turn begins with another one: what stands in the caches from
        # the one before is shared out evenly.
        order = list(methods.items())
        shift = turn % len(order)
        for name, method in order[shift:] + order[:shift]:
            for number, (indices, (augmentation,)) in enumerate(plans):
                begun = time.process_time()
                method(number, indices.reshape(-1), augmentation, turn + 1)
                if turn >= 0:
                    seconds[name].append(time.process_time() - begun)
    table("One sample, page cache warm", seconds)


def runs(name: str, method: Callable, clips: list[Path], samples: TrainSamples) -> bool:
    """Whether a method's library is there."""
    indices, (augmentation,) = samples._plan(Pick(0, 0), samples.videos[0])
    try:
        method(0, indices.reshape(-1), augmentation, 0)
    except ImportError as error:
        print(f"left out: {name}: {error}")
        return False
    return True


class ReleasedDataset(Dataset):
    def __init__(self, clips: list[Path], count: int):
        self.clips, self.count = clips, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> torch.Tensor:
        return baselines.released(self.clips[index % len(self.clips)], *baselines.draw(300, index, CROP))


def workers(clips: list[Path], reader: ShardReader, rounds: int) -> None:
    """Two workers, batches on the host: CPU time of all processes, start not counted."""
    warm(reader.path)
    videos = records(reader)
    theirs = DataLoader(
        ReleasedDataset(clips, len(videos)), BATCH, num_workers=2, persistent_workers=True, shuffle=True
    )
    ours = train_loader(videos, CLIP, crop=CROP, batch_size=BATCH, workers=2)
    seconds: dict[str, list[float]] = {"released way": [], "v4d": []}
    for turn in range(-1, max(1, rounds // 2)):
        ours.set_epoch(turn + 1)
        for name, loader in (("released way", theirs), ("v4d", ours)):
            begun = cpu_of_all_processes()
            for _ in loader:
                pass
            if turn >= 0:
                seconds[name].append((cpu_of_all_processes() - begun) / len(videos))
    table("DataLoader, 2 workers, batches of 6 on the host", seconds)


def cold(clips: list[Path], reader: ShardReader, rounds: int) -> None:
    """Fetching the JPEGs of one sample with none of the shard's pages in memory (wall clock)."""
    del clips
    print(f"\n{'Fetching a sample, page cache cold':<44}{'ms':>8}{'MB read':>10}")
    default = shards.COLD_SECONDS
    videos = records(reader)
    del reader._map
    seconds: dict[str, list[float]] = {
        f"v4d ({shards.READ_THREADS} threads once it is slow)": [],
        "one thread": [],
    }
    megabytes: dict[str, list[float]] = {name: [] for name in seconds}
    for turn in range(8 * rounds):
        indices, _ = baselines.draw(300, turn, CROP)
        for name, limit in zip(seconds, (default, float("inf")), strict=True):
            shards.COLD_SECONDS = limit
            drop_pages(reader.path)
            before = bytes_read()
            fresh = ShardReader(reader.path)
            begun = time.perf_counter()
            fresh.jpegs(videos[turn * 7 % len(videos)].video_id, indices)
            seconds[name].append(time.perf_counter() - begun)
            megabytes[name].append((bytes_read() - before) / 1e6)
            del fresh
    shards.COLD_SECONDS = default
    for name in seconds:
        middle, size = statistics.median(seconds[name]), statistics.median(megabytes[name])
        print(f"{name:<44}{1e3 * middle:>8.1f}{size:>10.2f}")


def start(clips: list[Path], reader: ShardReader, rounds: int) -> None:
    """From building a loader to its first batch (wall clock); the fork server is started by the first."""
    del clips, rounds
    print(f"\n{'First batch of 1 after the start of':<44}{'ms':>8}")
    for name, count in (("the fork server and 1 worker", 1), ("1 worker", 1), ("2 workers", 2)):
        begun = time.perf_counter()
        loader = train_loader(records(reader), CLIP, crop=CROP, batch_size=1, workers=count)
        next(iter(loader))
        print(f"{name:<44}{1e3 * (time.perf_counter() - begun):>8.0f}")
        del loader
        gc.collect()


def memory(videos: list[VideoRecord]) -> None:
    """A worker's own memory (pages of shards are the kernel's), every 2,000 of 20,000 samples."""
    loader = train_loader(videos, CLIP, crop=CROP, batch_size=BATCH, workers=1)
    print(f"\n{'Samples of one worker':<24}{'own memory, MB':>20}")
    read, said = 0, 0
    for epoch in range(20_000 // len(videos) + 1):
        loader.set_epoch(epoch)
        for batch in loader:
            read += len(batch)
        if read >= said:
            worker = max(psutil.Process().children(recursive=True), key=lambda p: p.cpu_times().user)
            used = worker.memory_info()
            print(f"{read:<24}{(used.rss - used.shared) / 1e6:>20.1f}", flush=True)
            said += 2000


def table(title: str, seconds: dict[str, list[float]]) -> None:
    """Median CPU time, speed a core, and ratios to the first and the last method."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    first, *_, last = medians.values()
    print(f"\n{title:<44}{'ms':>8}{'/s/core':>9}{'speed':>8}{'of last':>9}")
    for name, median in medians.items():
        print(f"{name:<44}{1e3 * median:>8.1f}{1 / median:>9.1f}{first / median:>7.1f}x{last / median:>8.0%}")


def cpu_of_all_processes() -> float:
    me = psutil.Process()
    times = [process.cpu_times() for process in (me, *me.children(recursive=True))]
    return sum(t.user + t.system for t in times)


def warm(path: Path) -> None:
    """Have all of a file in the page cache."""
    with path.open("rb") as file:
        while file.read(1 << 24):
            pass


def drop_pages(path: Path) -> None:
    """Have the kernel forget its copy of a file that nobody maps."""
    gc.collect()
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def bytes_read() -> int:
    """Bytes that this process had fetched from the disk."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["read_bytes"])


if __name__ == "__main__":
    main()
