"""Videos a second of a training step and of inference, in several forms, against the released way.

    python benchmarks/model.py                                       # a CPU core, small
    python benchmarks/model.py --arch v4d_resnet50 --frames 8 --pixels 224 --batch 8    # a GPU

The baseline is the released way (`_released_way.py`): NCTHW `Conv3d`, the 4D convolution between two
permutations, float32. Ours is channels last with frames as the batch; on a GPU also in bf16, compiled, and
with CUDA graphs. Rounds are interleaved; a CPU's times are CPU seconds, a GPU's wall-clock seconds with peak
memory beside them. Nothing is asserted.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from _hardware import machine, seconds
from _released_way import ReleasedWay
from torch import Tensor, nn

from v4d.models import create_model

CLASSES, UNITS = 400, 4


def main() -> None:
    options = arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(machine(threads=1))
    print(f"{options.arch}, released preset, {options.batch} videos of {UNITS} x {options.frames} frames, "
          f"{options.pixels} pixels")  # fmt: skip
    x = torch.randn(options.batch, UNITS, options.frames, options.pixels, options.pixels, 3, device=device)
    labels = torch.randint(CLASSES, (options.batch,), device=device)
    works = {
        f"{what}, {name}": make(network, x.movedim(-1, 2), labels, bf16)
        for what, make in (("training", training), ("inference", inference))
        for name, network, bf16 in forms(options, device)
    }
    times = interleaved(works, options.rounds)
    for what in ("training", "inference"):
        report(what, {n: t for n, t in times.items() if n.startswith(what)}, options.batch)
    if device.type == "cuda":
        for name, work in works.items():
            torch.cuda.reset_peak_memory_stats()
            work()
            torch.cuda.synchronize()
            print(f"  peak memory, {name}: {torch.cuda.max_memory_allocated() / 1e9:.2f} GB")


def forms(options: argparse.Namespace, device: torch.device) -> list[tuple[str, nn.Module, bool]]:
    """(name, network, bf16): the baseline first."""

    def ours() -> nn.Module:
        torch.manual_seed(0)
        sizes = {"units": UNITS, "frames": options.frames, "dropout": 0.0}
        return create_model(options.arch, num_classes=CLASSES, **sizes).to(device)

    found = [
        ("released way, float32", ReleasedWay(ours()).to(device), False),
        ("ours, float32", ours(), False),
    ]
    if device.type == "cuda":
        found += [
            ("ours, bf16", ours(), True),
            ("ours, bf16, compiled", torch.compile(ours()), True),
            ("ours, bf16, compiled with CUDA graphs", torch.compile(ours(), mode="reduce-overhead"), True),
        ]
    elif options.compile:
        found.append(("ours, float32, compiled", torch.compile(ours()), False))
    return found


def training(network: nn.Module, x: Tensor, labels: Tensor, bf16: bool) -> Callable[[], None]:
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, fused=True)

    def step() -> None:
        network.train()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
            logits = network(x)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return step


def inference(network: nn.Module, x: Tensor, labels: Tensor, bf16: bool) -> Callable[[], None]:
    def run() -> None:
        network.eval()
        with torch.inference_mode(), torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
            network(x)

    return run


def interleaved(works: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    for work in works.values():  # compilation, autotuning, first allocations
        work()
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            times[name].append(seconds(work))
    return times


def report(what: str, times: dict[str, list[float]], batch: int) -> None:
    medians = {name: statistics.median(values) for name, values in times.items()}
    baseline = next(iter(medians.values()))
    print(f"\n{what:<50} videos/s    ratio")
    for name, median in medians.items():
        print(f"  {name.partition(', ')[2]:<48} {batch / median:8.3f}  {baseline / median:6.2f}x")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", default="v4d_resnet50")
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--pixels", type=int, default=112)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="torch.compile on a CPU as well")
    return parser.parse_args()


if __name__ == "__main__":
    main()
