"""The loader feeding a training step: videos a second by workers, decoded on the host and on the GPU.

The shard has 300 frames a video of which every fourth is stored: so a video costs as many bytes as 75 frames,
and enough videos fit that a pass over them is larger than the processor's caches. A sample reads 32 JPEGs
of 320x256, as it does from a shard with all frames.
"""

import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from _gpu import CLASSES, UNITS, Run

from v4d import config as configs
from v4d.config import StageConfig
from v4d.data.batch import Batch, prefetch
from v4d.data.dataset import VideoRecord
from v4d.data.loader import Loader, train_loader
from v4d.data.sampling import ClipSpec
from v4d.data.shard_writer import ShardHeader, ShardWriter
from v4d.distributed.group import DistributedContext
from v4d.evaluation.pieces import Clock
from v4d.models import create_model
from v4d.training.step import TrainStep

FRAMES, NUM_FRAMES, SHARD_STRIDE = 8, 300, 4
WIDTH, HEIGHT = 320, 256
CORES = len(os.sched_getaffinity(0))
MOST_SECONDS = 3.0
"""After which a measurement stops, however many batches it has seen."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    arch: str
    videos: int
    """Of the shard."""
    pixels: int
    batch: int
    warm_up: int
    """Batches before a measurement, at least."""
    steps: int
    """Batches of a measurement, at least."""
    workers: dict[str, tuple[int, ...]]
    """Numbers of workers, by where frames are decoded."""


FULL = Sizes("v4d_resnet50", 256, 224, 8, 3, 12, {"host": (1, 4, 8, 16), "device": (4, 8)})
TINY = Sizes("v4d_tiny", 4, 32, 2, 1, 1, {"host": (1,), "device": (1,)})


def measure(run: Run) -> None:
    sizes = TINY if run.tiny else FULL
    videos = make_shard(run, sizes)
    stage = settings(sizes)
    step = train_step(run, sizes, stage)
    with run.attempt("decoding and cropping on the device alone"):
        decoding(run, videos, stage, sizes)
    for decode_on, counts in sizes.workers.items():
        for workers in (count for count in counts if count <= CORES or run.tiny):
            what = f"{workers} workers, decoded on the {decode_on}"
            with run.attempt(what):
                loader = make_loader(videos, stage, sizes, workers, decode_on)
                feeding(run, what, loader, step, workers, sizes)
                del loader  # its workers end before the next ones start


def make_shard(run: Run, sizes: Sizes) -> list[VideoRecord]:
    """A shard of moving pictures that are as hard to decode as camera footage."""
    begun, path = time.perf_counter(), run.folder / "feeding.lmdb"
    stored = NUM_FRAMES // SHARD_STRIDE
    with ThreadPoolExecutor(CORES) as pool:
        jpegs = [jpeg for scene in pool.map(jpegs_of_scene, range(sizes.videos // 4)) for jpeg in scene]
    size, records = (WIDTH, HEIGHT), []
    with ShardWriter(path, ShardHeader(size=size, quality=90, stride=SHARD_STRIDE)) as writer:
        for number in range(sizes.videos):
            name, first = f"video_{number}", 40 * number
            frames = [jpegs[(first + frame) % len(jpegs)] for frame in range(stored)]
            facts = {"class_index": number % CLASSES, "num_frames": NUM_FRAMES, "fps": 30.0}
            writer.add(name, frames, **facts, size=size, source_size=size)
            records.append(VideoRecord(name, number % CLASSES, str(path), NUM_FRAMES))
    written, megabytes = time.perf_counter() - begun, path.stat().st_size / 1e6
    average = sum(map(len, jpegs)) / len(jpegs) / 1e3
    run.row("shard written", seconds=written, MB=megabytes, kB_a_frame=average, videos=sizes.videos)
    run.row("shard read, its pages in memory", GB_per_s=megabytes / 1e3 / seconds_to_read(path))
    return records


def jpegs_of_scene(number: int) -> list[bytes]:
    """40 frames: the view glides over a smooth random field with grain."""
    rng = np.random.default_rng(number)
    height, width = HEIGHT + 64, WIDTH + 128
    field = np.zeros((height, width, 3), dtype=np.float32)
    for cell, strength in ((64, 90), (16, 40), (4, 20)):
        coarse = torch.from_numpy(rng.standard_normal((1, 3, height // cell, width // cell), np.float32))
        smooth = F.interpolate(coarse, (height, width), mode="bilinear")[0].permute(1, 2, 0)
        field += strength * smooth.numpy()
    field = (field + 128).clip(16, 239).astype(np.int16)
    grain = (3.3 * rng.standard_normal((height, width, 1), np.float32)).astype(np.int16)
    jpegs = []
    for frame in range(40):
        top, left = frame, 3 * frame
        view = field[top : top + HEIGHT, left : left + WIDTH]
        noise = grain[63 - top : 63 - top + HEIGHT, 127 - left : 127 - left + WIDTH]
        jpegs.append(simplejpeg.encode_jpeg((view + noise).astype(np.uint8), 90, colorsubsampling="420"))
    return jpegs


def seconds_to_read(path: Path) -> float:
    begun = time.perf_counter()
    with path.open("rb") as file:
        while file.read(1 << 24):
            pass
    return time.perf_counter() - begun


def settings(sizes: Sizes) -> StageConfig:
    model = {"arch": sizes.arch, "preset": "released", "units": UNITS, "frames": FRAMES, "dropout": 0.5}
    document = {
        "name": "feeding",
        "dataset": {"name": "feeding", "source": "synthetic"},
        "models": {"m": model},
        "training": {"batch_size": sizes.batch, "crop": {"size": sizes.pixels}},
    }
    return configs.build(configs.resolve(document)).models["m"].final


def train_step(run: Run, sizes: Sizes, stage: StageConfig) -> Callable[[Batch], object]:
    """A step on a batch, warmed up and timed on tensors that lie on the device."""
    torch.manual_seed(0)
    shape = {"units": UNITS, "frames": FRAMES, "dropout": 0.5, "preset": "released"}
    model = create_model(sizes.arch, num_classes=CLASSES, **shape).to(run.device)
    train = TrainStep(model, stage, DistributedContext(0, 1, run.device), seed=0)
    numbers = itertools.count()
    size = (sizes.batch, UNITS, FRAMES, sizes.pixels, sizes.pixels, 3)
    frames = torch.randint(0, 256, size, dtype=torch.uint8, device=run.device)
    labels = torch.randint(CLASSES, (sizes.batch,), device=run.device)
    fixed = Batch(frames, labels, ["video"] * sizes.batch, torch.ones(sizes.batch, device=run.device))

    def step(batch: Batch) -> object:
        return train.step([batch], 0, next(numbers), 0.0)

    repeats, warm_up = (1, 1) if run.tiny else (8, 3)
    spent = run.steady_seconds(lambda: step(fixed), repeats, warm_up)
    run.row(
        "training on tensors, no loader", training_videos_per_s=sizes.batch / spent, ms_a_step=1e3 * spent
    )
    return step


def make_loader(
    videos: list[VideoRecord], stage: StageConfig, sizes: Sizes, workers: int, decode_on: str
) -> Loader:
    """An epoch is long enough that workers always have a batch to make."""
    needed = (sum(lengths(workers, sizes)) + max(1, workers)) * sizes.batch
    return train_loader(
        list(itertools.islice(itertools.cycle(videos), needed)),
        ClipSpec(UNITS, FRAMES, stage.frame_stride),
        crop=stage.training.crop,
        batch_size=sizes.batch,
        workers=workers,
        decode_on=decode_on,
    )


def lengths(workers: int, sizes: Sizes) -> tuple[int, int]:
    """Batches to warm up with and to measure over: more than are made ahead, which are 3 a worker.

    Both are whole turns of the workers, whose batches come in bursts.
    """
    turn = max(1, workers)
    return -(-sizes.warm_up // turn) * turn, max(-(-sizes.steps // turn), 4) * turn


def feeding(
    run: Run, what: str, loader: Loader, step: Callable[[Batch], object], workers: int, sizes: Sizes
) -> None:
    """The loader by itself, then with a step that takes its batches."""
    warm_up, count = lengths(workers, sizes)
    begun = time.perf_counter()
    alone = iter(loader)
    taken(alone, warm_up, lambda batch: None)
    start = time.perf_counter() - begun
    loaded = rate(run, alone, count, lambda batch: None)
    alone.close()
    loader.set_epoch(1)
    clock = Clock()
    fed = prefetch(clock.waiting(loader), run.device)
    taken(fed, warm_up, step)
    run.synchronise()
    clock.wait, begun = 0.0, time.perf_counter()
    trained = rate(run, fed, count, step)
    wait = clock.wait / (time.perf_counter() - begun)
    fed.close()
    run.row(
        what,
        loader_videos_per_s=loaded * sizes.batch,
        training_videos_per_s=trained * sizes.batch,
        data_wait_percent=100 * wait,
        s_until_warm=start,
    )


def rate(run: Run, batches: Iterator[Batch], count: int, use: Callable[[Batch], object]) -> float:
    """Batches a second."""
    begun = time.perf_counter()
    number = taken(batches, count, use, MOST_SECONDS)
    run.synchronise()
    return number / (time.perf_counter() - begun)


def taken(
    batches: Iterable[Batch], count: int, use: Callable[[Batch], object], most_seconds: float = 60.0
) -> int:
    """How many batches were used: `count`, or those for which the time was enough."""
    begun, number = time.perf_counter(), 0
    for batch in batches:
        use(batch)
        number += 1
        if number == count or time.perf_counter() - begun > most_seconds:
            break
    return number


def decoding(run: Run, videos: list[VideoRecord], stage: StageConfig, sizes: Sizes) -> None:
    """What the GPU decodes and crops while it does nothing else."""
    loader = make_loader(videos, stage, sizes, 0, "device")
    batches = list(itertools.islice(loader, 1 if run.tiny else 4))
    turns = itertools.cycle(batches)
    repeats, warm_up = (1, 1) if run.tiny else (8, 4)
    spent = run.steady_seconds(lambda: next(turns).to(run.device), repeats, warm_up)
    run.row(
        "decoding and cropping on the device alone",
        frames_per_s=sizes.batch * UNITS * FRAMES / spent,
        videos_per_s=sizes.batch / spent,
        ms_a_batch=1e3 * spent,
    )
    run.row(
        "a batch on its way to the device",
        MB_encoded=sum(len(batch.encoded.data) for batch in batches) / len(batches) / 1e6,
        MB_decoded=batches[0].to(run.device).frames.numel() / 1e6,
    )
