"""What jobs cost on this machine, for `v4d estimate`."""

import resource
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from v4d.errors import V4DError
from v4d.utils.files import read_json, write_json


@dataclass
class Cost:
    """CPU time (seconds) of a job over `videos` videos and `bytes` bytes."""

    videos: int = 0
    bytes: int = 0
    cpu_seconds: float = 0.0


@dataclass(frozen=True)
class StageCost:
    """What a stage of the pipeline will cost: bytes, and CPU time (seconds)."""

    download: float = 0.0
    disk: float = 0.0
    """What stays."""
    passing: float = 0.0
    """What is deleted after use, at its most."""
    cpu_seconds: float = 0.0
    basis: str = "averages"
    """Where the figures come from."""


@contextmanager
def measured(path: Path) -> Iterator[Cost]:
    """Measure the block, children included, and write `path`; a failure leaves nothing.

    The block fills in `videos` and `bytes`.
    """
    cost, before = Cost(), _cpu_seconds()
    yield cost
    cost.cpu_seconds = _cpu_seconds() - before
    write_json(path, {name: round(value, 3) for name, value in vars(cost).items()})


def total_cost(paths: Iterable[Path]) -> Cost:
    """The sum over the jobs that were measured; all zero where none was."""
    total = Cost()
    for path in paths:
        try:
            values = read_json(path)
            total.videos += values["videos"]
            total.bytes += values["bytes"]
            total.cpu_seconds += values["cpu_seconds"]
        except (KeyError, TypeError, V4DError):
            continue  # a damaged file is no reason to fail: the figure is an estimate
    return total


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
