"""Ceilings of the device, and training steps of ResNet-50 networks on a batch that lies on it."""

import gc
from collections.abc import Callable

import torch
from _gpu import CLASSES, UNITS, Run, convolutions
from _released_way import ReleasedWay, training_step

from v4d import config as configs
from v4d.config import StageConfig
from v4d.data.batch import Batch
from v4d.distributed.group import DistributedContext
from v4d.models import VideoModel, create_model, gmac
from v4d.training.compilation import why_not
from v4d.training.step import TrainStep

NETWORKS = {
    "V4D, released preset": ("v4d_resnet50", {"preset": "released"}),
    "V4D, paper preset": ("v4d_resnet50", {"preset": "paper"}),
    "TSN": ("i3ds_resnet50", {}),
}
"""The table's rows that are trained here: architecture and options."""


def measure(run: Run) -> None:
    frames, pixels = (2, 64) if run.tiny else (8, 224)
    small, larger = (1, (2,)) if run.tiny else (8, (16, 32))
    run.row(f"every step: {UNITS} units x {frames} frames x {pixels} pixels", batch=small)
    peak = ceilings(run)
    failure = why_not(run.device)
    run.check("torch.compile works", failure is None, says=failure)
    flops = {name: 6e9 * cost(run, name, frames, pixels) for name in NETWORKS}  # forward, and twice that back

    def note(
        name: str, what: str, batch: int, work: Callable[[], object], repeats: int
    ) -> tuple[float, float]:
        with run.peak_memory() as memory:
            alone = run.seconds(work, 2, 2)
            steady = run.steady_seconds(work, repeats, 0)
        run.row(
            f"{name}, {what}, batch {batch}",
            videos_per_s=batch / steady,
            ms=1e3 * steady,
            ms_alone=1e3 * alone,
            percent_of_matmul_peak=100 * flops[name] * batch / steady / peak,
            GiB_at_most=memory(),
        )
        return steady, memory()

    name, *_ = NETWORKS
    baselines = {}
    for precision in ("tf32", "ieee"):
        with convolutions(precision, benchmark=True):
            work = released_step(run, frames, pixels, small)
            what = f"released way, float32, convolutions in {precision}"
            baselines[precision], _ = note(name, what, small, work, 2)
            del work
        tidy(run)
    memories, compiled = {}, 0.0
    for name in NETWORKS:
        work = own_step(run, name, frames, pixels, small)
        eager, memories[small] = note(name, "eager, bf16", small, work, 10)
        del work
        tidy(run)
        if run.tiny and compiled:  # once is enough to see that it works
            continue
        work = own_step(run, name, frames, pixels, small, compiled=True)
        compiled, _ = note(name, "compiled, bf16", small, work, 10)
        del work
        tidy(run)
        run.row(f"{name}, compiled against eager", times=eager / compiled)
        if name == next(iter(NETWORKS)):
            for precision, baseline in baselines.items():
                what = f"{name}, against the released way in {precision}"
                run.row(what, eager=baseline / eager, compiled=baseline / compiled)
            batches = [*larger, *largest(run, frames, pixels, small, memories[small])]
            for batch in batches:
                note(name, "eager, bf16", batch, own_step(run, name, frames, pixels, batch), 3)
                tidy(run)


def ceilings(run: Run) -> float:
    """What the device reaches, operations a second in bf16; also its memory, read and written."""
    side, count = (256, 1 << 20) if run.tiny else (8192, 1 << 30)
    a, b = (torch.randn(side, side, device=run.device).bfloat16() for _ in range(2))
    peak = 2 * side**3 / run.steady_seconds(lambda: a @ b, 10)
    x = torch.randn(count, device=run.device)
    y = torch.empty_like(x)
    rate = 8 * count / run.steady_seconds(lambda: y.copy_(x), 10)
    run.row("matrix product and copy", TFLOP_per_s=peak / 1e12, TB_per_s=rate / 1e12)
    return peak


def largest(run: Run, frames: int, pixels: int, small: int, used: float) -> list[int]:
    """A batch, a multiple of 8, that should just fit by what a small one takes; none on a CPU."""
    if run.device.type != "cuda" or run.tiny:
        return []
    free = torch.cuda.mem_get_info(run.device)[0] / 2**30
    return [int(0.9 * free / used * small) // 8 * 8]


def cost(run: Run, name: str, frames: int, pixels: int) -> float:
    """Billions of multiplications and additions, forward, one video."""
    return gmac(network(run, name, frames), UNITS, frames, pixels, pixels)


def architecture(run: Run, name: str) -> tuple[str, dict[str, str]]:
    arch, options = NETWORKS[name]
    return (arch.replace("resnet50", "tiny") if run.tiny else arch), options


def network(run: Run, name: str, frames: int) -> VideoModel:
    torch.manual_seed(0)
    arch, options = architecture(run, name)
    sizes = {"units": UNITS, "frames": frames, "dropout": 0.5}
    return create_model(arch, num_classes=CLASSES, **sizes, **options).to(run.device)


def stage_of(run: Run, name: str, frames: int, pixels: int, batch: int) -> StageConfig:
    arch, options = architecture(run, name)
    model = {"arch": arch, "units": UNITS, "frames": frames, "dropout": 0.5, **options}
    document = {
        "name": "benchmark",
        "dataset": {"name": "benchmark", "source": "synthetic"},
        "models": {"m": model},
        "training": {"batch_size": batch, "crop": {"size": pixels}},
    }
    return configs.build(configs.resolve(document)).models["m"].final


def own_step(
    run: Run, name: str, frames: int, pixels: int, batch: int, *, compiled: bool = False
) -> Callable[[], object]:
    model = network(run, name, frames).train()
    stage = stage_of(run, name, frames, pixels, batch)
    train = TrainStep(model, stage, DistributedContext(0, 1, run.device), seed=0, compiled=compiled)
    videos = batch_of(run, frames, pixels, batch)
    return lambda: train.step([videos], 0, 0, 0.0)


def released_step(run: Run, frames: int, pixels: int, batch: int) -> Callable[[], object]:
    model = ReleasedWay(network(run, next(iter(NETWORKS)), frames)).to(run.device).train()
    return training_step(model, batch_of(run, frames, pixels, batch))


def batch_of(run: Run, frames: int, pixels: int, batch: int) -> Batch:
    shape = (batch, UNITS, frames, pixels, pixels, 3)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=run.device)
    labels = torch.randint(CLASSES, (batch,), device=run.device)
    return Batch(images, labels, [""] * batch, torch.ones(batch, device=run.device))


def tidy(run: Run) -> None:
    """Give memory back, and forget compiled networks."""
    torch._dynamo.reset()
    gc.collect()
    if run.device.type == "cuda":
        torch.cuda.empty_cache()
