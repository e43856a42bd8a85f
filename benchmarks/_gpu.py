"""What the parts of `gpu.py` share: where they run, and what they have found."""

import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

UNITS, CLASSES = 4, 400


@dataclass
class Run:
    """One run of `gpu.py`."""

    device: torch.device
    """The GPU, or the CPU of a trial."""
    tiny: bool
    """Every branch on the smallest sizes, so that a CPU goes through them in minutes."""
    folder: Path
    """Empty; for what a part writes."""
    results: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """By part: a row a figure or check."""
    failures: list[str] = field(default_factory=list)
    """What did not hold, a line each."""
    part: str = ""
    """Where new rows go."""

    def row(self, what: str, **figures: Any) -> None:
        """Note and print a row; a figure is a number with its unit in its name (`ms`, `videos_per_s`)."""
        self.results.setdefault(self.part, []).append({"what": what, **figures})
        words = ", ".join(f"{_shown(value)} {name.replace('_', ' ')}" for name, value in figures.items())
        print(f"  {what:<52} {words}", flush=True)

    def check(self, what: str, holds: bool, **figures: Any) -> None:
        """A row that says whether something holds; where it does not, the run fails in the end."""
        self.row(what, **figures, holds=holds)
        if not holds:
            self.failures.append(f"{self.part}: {what}: {figures}")

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """A measurement or check that may fail without taking the others along."""
        try:
            yield
        except Exception as error:
            self.check(what, holds=False, error=f"{type(error).__name__}: {error}"[:500])

    def synchronise(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], object], repeats: int = 10, warm_up: int = 2) -> float:
        """The median time of a call, from its start to the end of its work on the device."""
        times = []
        for number in range(warm_up + repeats):
            self.synchronise()
            begun = time.perf_counter()
            work()
            self.synchronise()
            if number >= warm_up:
                times.append(time.perf_counter() - begun)
        return statistics.median(times)

    def steady_seconds(self, work: Callable[[], object], repeats: int = 10, warm_up: int = 2) -> float:
        """Time of a call among many, between which the host does not wait for the device."""
        for _ in range(warm_up):
            work()
        self.synchronise()
        begun = time.perf_counter()
        for _ in range(repeats):
            work()
        self.synchronise()
        return (time.perf_counter() - begun) / repeats

    @contextmanager
    def peak_memory(self) -> Iterator[Callable[[], float]]:
        """A function that gives the largest memory in use since, GiB; 0 on a CPU."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
            yield lambda: torch.cuda.max_memory_allocated(self.device) / 2**30
        else:
            yield lambda: 0.0

    def save(self, path: Path, about: dict[str, Any]) -> None:
        """Everything found so far, as JSON."""
        path.write_text(json.dumps(about | self.results, indent=1, default=str) + "\n")


@contextmanager
def convolutions(precision: str, benchmark: bool = False) -> Iterator[None]:
    """Convolve float32 in `ieee` or `tf32`; with `benchmark` cuDNN tries which of its kernels is fastest."""
    cudnn: Any = torch.backends.cudnn
    before, tried = cudnn.conv.fp32_precision, cudnn.benchmark
    # RNNs too: where they differ, what reads the old name `allow_tf32` fails, torch.compile for one.
    cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = precision
    cudnn.benchmark = benchmark
    try:
        yield
    finally:
        cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = before
        cudnn.benchmark = tried


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return str(value)
