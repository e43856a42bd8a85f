"""Ten networks by three seeds on the made-up task `motion`: what a 4D block adds, where, and of which kernel.

    python benchmarks/ablations.py        # or `make ablations`; goes on where it was stopped

The demo's network (`v4d_tiny`: four stages of one residual block) on units of 2 frames of 28 pixels, which
are rendered into memory: no part of the pipeline but the network, its step and Algorithm 1. The class is the
order of two motions, and where the object is says nothing. All 4D blocks are the paper's, with batch norm,
and start with the default kernel and weight 1. Top-1 is of 8 units into U, one crop, on unseen videos.

    <out>/<network>-<seed>.json      a run: top-1 by order, seconds of CPU
    <out>/ablations.md, .svg         mean, deviation and interval over the seeds
"""

import argparse
import functools
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from _hardware import machine

from v4d import config as configs
from v4d.config import TestingConfig
from v4d.data.batch import Batch
from v4d.data.sampling import eval_indices, train_indices
from v4d.datasets.synthetic import CLASSES
from v4d.datasets.synthetic_videos import draw_scene, frames
from v4d.distributed.group import DistributedContext
from v4d.evaluation.views import Scorer
from v4d.models import create_model
from v4d.plotting import plots
from v4d.plotting.style import save
from v4d.report.comparison import markdown_table, over_seeds
from v4d.training.step import TrainStep
from v4d.training.trainer import architecture
from v4d.utils.files import read_json, write_json, write_text

SIZE, CROP, FRAMES, STRIDE, TEST_UNITS = 32, 28, 2, 3, 8
VIDEOS = {"train": 1200, "val": 400}
ORDERS = ("normal", "units_reversed", "frames_reversed")
TRAINING = {
    "epochs": 20,
    "batch_size": 32,
    "optimizer": {"lr": 0.05, "weight_decay": 0.0005, "bias_lr_factor": 1.0},
    "schedule": {"name": "onecycle"},
}
NETWORKS: dict[str, dict[str, Any]] = {
    "TSN, no 4D block": {"blocks": {}},
    "1x3x3x3 at res4 (++)": {"kernel": [1, 3, 3, 3], "blocks": {"res4": [1]}},
    "3x1x1x1 at res4": {"kernel": [3, 1, 1, 1], "blocks": {"res4": [1]}},
    "3x3x1x1 at res4": {"blocks": {"res4": [1]}},
    "3x3x3x3 at res4": {"kernel": [3, 3, 3, 3], "blocks": {"res4": [1]}},
    "3x3x1x1 at res3": {"blocks": {"res3": [1]}},
    "3x3x1x1 at res5": {"blocks": {"res5": [1]}},
    "3x3x1x1 at res3 and res4": {"blocks": {"res3": [1], "res4": [1]}},
    "3x3x1x1 at res4, U = 3": {"blocks": {"res4": [1]}, "units": 3},
    "3x3x1x1 at res4, U = 6": {"blocks": {"res4": [1]}, "units": 6},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("results/ablations"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    print(machine(threads=1))
    begun = time.monotonic()
    # Seed by seed, so that a run that is stopped has whole matrices.
    runs = [(name, seed, options.out) for seed in options.seeds for name in NETWORKS]
    todo = [run for run in runs if not result_file(*run).exists()]
    with ProcessPoolExecutor(options.processes) as pool:
        for number, line in enumerate(pool.map(one_run, *zip(*todo, strict=True)) if todo else (), 1):
            print(
                f"{number}/{len(todo)}  {line}  ({(time.monotonic() - begun) / 60:.1f} minutes)", flush=True
            )
    results = {
        name: over_seeds([read_json(result_file(name, seed, options.out)) for seed in options.seeds])
        for name in NETWORKS
    }
    text = markdown_table(table(results))
    cpu = sum(read_json(result_file(*run))["seconds"] for run in runs) / 60
    text += f"\n\n{len(runs)} trainings and tests: {cpu:.0f} minutes of CPU. {machine(threads=1)}."
    write_text(options.out / "ablations.md", text + "\n")
    rows = [
        {"name": name, "top1": result["top1"], "interval": result["top1_interval"], "published": False}
        for name, result in results.items()
    ]
    save(options.out / "ablations.svg", plots.accuracies(rows))
    print(f"\n{text}\n{options.out / 'ablations.md'}, {options.out / 'ablations.svg'}")


def result_file(name: str, seed: int, out: Path) -> Path:
    plain = "".join(letter if letter.isalnum() else "_" for letter in name)
    return out / f"{plain}-{seed}.json"


def one_run(name: str, seed: int, out: Path) -> str:
    """Train and test one network; what came out, in a line."""
    torch.set_num_threads(1)
    begun = time.process_time()
    learner = trained(NETWORKS[name], seed)
    top1 = tested(learner)
    result = {
        "top1": top1["normal"],
        "top5": 100.0,
        "orders": {order: {"top1": value} for order, value in top1.items()},
        "by_units": {},
        "top1_interval": [top1["normal"]] * 2,
        "seconds": time.process_time() - begun,
    }
    write_json(result_file(name, seed, out), result)
    return f"{name}, seed {seed}: " + ", ".join(f"{order} {value:.1f}" for order, value in top1.items())


def trained(network: dict[str, Any], seed: int) -> TrainStep:
    """A network after its training, which sees each unit at a random place and in a random crop."""
    model = {"arch": "v4d_tiny", "preset": "paper", "units": 4, "frames": FRAMES, "dropout": 0.0}
    model |= {"start4d": {"kernel": "random", "norm_weight": 1.0}} | network  # whatever the preset's start is
    document = {"name": "a", "dataset": {"name": "a", "source": "synthetic"}, "training": TRAINING}
    stage = configs.build(configs.resolve(document | {"models": {"m": model}})).models["m"].final
    torch.manual_seed(seed)
    net = create_model(**architecture(stage, len(CLASSES)))
    step = TrainStep(net.train(), stage, DistributedContext(0, 1, torch.device("cpu")), seed)
    clips, size = videos("train"), stage.training.batch_size
    for epoch in range(stage.training.epochs):
        rng = np.random.default_rng([seed, epoch])
        order, steps = rng.permutation(len(clips)), len(clips) // size
        for number in range(steps):
            chosen = order[number * size : (number + 1) * size]
            shown = np.stack([seen(clips[index], stage.units, rng) for index in chosen])
            step.step([batch(shown, chosen)], epoch, number, epoch + number / steps)
    return step


def tested(step: TrainStep) -> dict[str, float]:
    """Top-1 by order, percent."""
    clips = videos("val")
    score = Scorer(step.model, TestingConfig(orders=ORDERS), bf16=False)
    right = dict.fromkeys(ORDERS, 0)
    for first in range(0, len(clips), 40):
        part = range(first, first + 40)
        shown = batch(np.stack([seen(clips[index], TEST_UNITS, None) for index in part]), np.array(part))
        scores, _ = score(shown.frames[:, None], [str(index) for index in part])
        for order, found in scores.items():
            right[order] += int((found.argmax(1) == shown.class_index.numpy()).sum())
    return {order: 100 * count / len(clips) for order, count in right.items()}


def batch(shown: np.ndarray, indices: np.ndarray) -> Batch:
    labels = torch.from_numpy(indices % len(CLASSES))
    return Batch(torch.from_numpy(shown), labels, [str(index) for index in indices], torch.ones(len(shown)))


def seen(clip: np.ndarray, units: int, rng: np.random.Generator | None) -> np.ndarray:
    """What a network sees of a clip `[F, SIZE, SIZE, 3]`: `[U, T, CROP, CROP, 3]`; no `rng` in a test."""
    if rng is None:
        index = eval_indices(len(clip), units, FRAMES, STRIDE)
        top = left = (SIZE - CROP) // 2
    else:
        index = train_indices(len(clip), units, FRAMES, STRIDE, rng)
        top, left = rng.integers(SIZE - CROP + 1, size=2)
    return clip[index][:, :, top : top + CROP, left : left + CROP]


@functools.cache
def videos(split: str) -> list[np.ndarray]:
    """The clips of a split, uint8 `[F, SIZE, SIZE, 3]`; their classes come in turn."""
    look: dict[str, Any] = {"size": SIZE, "rest_frames": 4, "seed": 0, "task": "motion"}
    names = [CLASSES[number % len(CLASSES)] for number in range(VIDEOS[split])]
    scenes = (draw_scene(f"{split}_{n:05d}", name, **look) for n, name in enumerate(names))
    return [np.stack(list(frames(scene, seed=n))) for n, scene in enumerate(scenes)]


def table(results: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """A row a network; separated from TSN where the intervals do not overlap."""
    baseline = next(iter(results.values()))["top1_interval"]
    rows = []
    for name, result in results.items():
        low, high = result["top1_interval"]
        row = {"network": name, "top1": result["top1"], "deviation": result.get("top1_std", np.nan)}
        apart = low > baseline[1] or high < baseline[0]
        row |= {"95 % interval": f"{low:.1f} to {high:.1f}"}
        row |= {"against TSN": "separated" if apart else "not separated"}
        rows.append(row | {order: result["orders"][order]["top1"] for order in ORDERS[1:]})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
