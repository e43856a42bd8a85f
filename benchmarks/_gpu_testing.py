"""The network's part of a test: seconds a video by Algorithm 1, shared and by brute force; hours for a set.

The protocol is that of config/kinetics400.yaml: 10 units into 4, 3 crops of 256 pixels, 4 videos at a time.
They lie on the device as bytes, as the test stage has them. Pixels and weights are drawn. Float32 is timed
with convolutions in TF32, PyTorch's default.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from _gpu import CLASSES, Run, convolutions
from _released_way import ReleasedWay, brute_force
from torch import Tensor

from v4d import config as configs
from v4d.config import Config, TestingConfig
from v4d.data.batch import normalise
from v4d.datasets.published import published_counts
from v4d.evaluation.algorithm1 import unit_sections
from v4d.evaluation.views import Scorer
from v4d.models import VideoModel, create_model
from v4d.models.base import BatchNorm
from v4d.models.layers import BasicBlock, Bottleneck

CONFIG = Path(__file__).parents[1] / "config" / "kinetics400.yaml"
FEW_UNITS = 5
"""Units of which brute force is timed: 2 combinations, where 10 have 36."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    arch: str
    tsn: str
    units: int
    """Of a test video."""
    units_trained: int
    frames: int
    pixels: int
    crops: int
    batch: int
    repeats: int
    small: tuple[int, int]
    """Frames of a unit and pixels, where scores are compared."""


TINY = Sizes("v4d_tiny", "i3ds_tiny", 6, 4, 2, 32, 1, 1, 1, (2, 32))


def measure(run: Run) -> None:
    config = configs.load(CONFIG)
    sizes, testing = TINY if run.tiny else protocol(config), config.testing
    model = settled(run, sizes.arch, sizes)
    with run.attempt("Algorithm 1 in bf16 is brute force in float32"):
        agreement(run, model, sizes, testing)
    frames = drawn_frames(run, (sizes.batch, sizes.crops, sizes.units), sizes.frames, sizes.pixels)
    one_pass = testing.replace(combinations="all_units")
    with run.attempt("Algorithm 1, bf16"):
        timing(run, "Algorithm 1, bf16", Scorer(model, testing, bf16=True), frames, sizes)
    with run.attempt("one pass of all units, bf16"):
        timing(run, "one pass of all units, bf16", Scorer(model, one_pass, bf16=True), frames, sizes)
    with run.attempt("TSN, bf16"):
        scorer = Scorer(settled(run, sizes.tsn, sizes), testing, bf16=True)
        timing(run, "TSN, bf16", scorer, frames, sizes)
    with run.attempt("released way, float32"), convolutions("tf32", benchmark=True):
        released(run, model, frames, sizes)
    with run.attempt("Algorithm 1, float32"), convolutions("tf32"):
        once = replace(sizes, repeats=1)
        timing(run, "Algorithm 1, float32", Scorer(model, testing, bf16=False), frames, once)


def protocol(config: Config) -> Sizes:
    """What the config says of the test and of its two networks."""
    testing, network = config.testing, config.models["v4d"].final
    return Sizes(
        arch=network.arch,
        tsn=config.models["tsn"].final.arch,
        units=testing.units,
        units_trained=network.units,
        frames=network.frames,
        pixels=testing.crop_size,
        crops=testing.crops,
        batch=testing.batch_size,
        repeats=3,
        small=(8, 64),
    )


def settled(run: Run, arch: str, sizes: Sizes) -> VideoModel:
    """A network as after a training: batch norms that know its activations, and scores that differ.

    Its residual branches are weak, as trained ones are; else roundings would grow from block to block.
    """
    torch.manual_seed(0)
    shape = {"units": sizes.units_trained, "frames": sizes.frames, "preset": "released"}
    model = create_model(arch, num_classes=CLASSES, **shape).to(run.device)
    torch.nn.init.normal_(model.fc.weight, std=0.05)
    for module in model.modules():
        if isinstance(module, BasicBlock | Bottleneck):
            last = module.bn3 if isinstance(module, Bottleneck) else module.bn2
            torch.nn.init.constant_(last.weight, 0.2)
        elif isinstance(module, BatchNorm):
            module.momentum = 1.0  # the statistics of one batch
    frames = drawn_frames(run, (4, sizes.units_trained), *sizes.small)
    with torch.no_grad():
        model.train()(normalise(frames, model.input))
    return model.eval()


def drawn_frames(run: Run, units: tuple[int, ...], frames: int, pixels: int) -> Tensor:
    """uint8 `[*units, T, H, W, 3]`: each unit shows a picture of its own, with grain in each frame."""
    count = math.prod(units)
    patches = torch.rand(count, 3, 4, 4, device=run.device)
    scene = F.interpolate(patches, (pixels, pixels), mode="bilinear").mul_(208).byte()
    shape = (count, frames, pixels, pixels, 3)
    grain = torch.randint(0, 48, shape, dtype=torch.uint8, device=run.device)
    return (grain + scene.permute(0, 2, 3, 1).unsqueeze(1)).unflatten(0, units)


def agreement(run: Run, model: VideoModel, sizes: Sizes, testing: TestingConfig) -> None:
    """Our shared way in bf16 against the same network on every combination in float32.

    The distance of scores is their total variation. The one allowed is an eighth of that of other answers:
    one combination alone, and all units in one pass.
    """
    frames = drawn_frames(run, (2, 1, sizes.units), *sizes.small)

    def scores(bf16: bool, combinations: bool | str) -> np.ndarray:
        settings = testing.replace(orders=("normal",), combinations=combinations)
        return Scorer(model, settings, bf16)(frames, ["first", "second"])[0]["normal"]

    x = normalise(frames[:, 0], model.input)
    right = brute_force(model, x, sizes.units_trained).cpu().numpy()
    error = distance(scores(True, True), right)
    other = min(distance(scores(False, combinations), right) for combinations in (False, "all_units"))
    figures = {"distance": error, "distance_of_another_answer": other}
    run.check("Algorithm 1 in bf16 is brute force in float32", error < other / 8, **figures)


def distance(scores_NK: np.ndarray, right_NK: np.ndarray) -> float:
    """The total variation, of the video in which it is the largest."""
    return float(np.abs(scores_NK - right_NK).sum(1).max() / 2)


def timing(run: Run, what: str, scorer: Scorer, frames: Tensor, sizes: Sizes) -> None:
    """A batch through the test stage's scorer."""
    names = [f"video {number}" for number in range(len(frames))]
    report(run, what, lambda: scorer(frames, names), sizes)


def released(run: Run, model: VideoModel, frames: Tensor, sizes: Sizes) -> None:
    """The whole network on every combination, as released; timed on a few of them and on one crop."""
    network = ReleasedWay(model).to(run.device).eval()
    x = normalise(frames[:, 0, :FEW_UNITS], model.input).contiguous()
    few, all_of_them = combinations(FEW_UNITS, sizes), combinations(sizes.units, sizes)
    what = f"released way, float32, from {few} of {all_of_them} combinations"
    more = all_of_them / few * sizes.crops
    report(run, what, lambda: brute_force(network, x, sizes.units_trained), sizes, more)


def combinations(units: int, sizes: Sizes) -> int:
    return math.prod(map(len, unit_sections(units, sizes.units_trained)))


def report(run: Run, what: str, work: Callable[[], object], sizes: Sizes, more: float = 1.0) -> None:
    """A row for scoring a batch, which takes `more` times as long as `work`."""
    work()  # tunes the convolutions, which takes memory
    with run.peak_memory() as peak:
        spent = more * run.seconds(work, sizes.repeats, warm_up=0) / sizes.batch
        videos = int(published_counts("kinetics400", ["val"]).at["val", "in_archives"])
        run.row(
            what,
            s_a_video=spent,
            videos_per_s=1 / spent,
            hours_for_kinetics400_val=videos * spent / 3600,
            peak_GiB=peak(),
        )
