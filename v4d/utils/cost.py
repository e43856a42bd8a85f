"""What jobs cost on this machine, for `v4d estimate`.

data/<dataset>/measured/<stage>/<split>-<part>.json   videos, bytes, CPU and wall seconds of a job
"""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from v4d.errors import V4DError
from v4d.utils.files import read_json, write_json


@dataclass
class Cost:
    """CPU and wall time (seconds) of a job over `videos` videos and `bytes` bytes."""

    videos: int = 0
    bytes: int = 0
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0


@contextmanager
def measured(root: Path, stage: str, split: str, part: str) -> Iterator[Cost]:
    """Measure the block, children included; it fills in `videos` and `bytes`. A failure leaves nothing."""
    cost = Cost()
    cpu, wall = _cpu_seconds(), time.monotonic()
    yield cost
    cost.cpu_seconds, cost.wall_seconds = _cpu_seconds() - cpu, time.monotonic() - wall
    values = {name: round(value, 3) for name, value in vars(cost).items()}
    write_json(root / "measured" / stage / f"{split}-{part}.json", values)


def total_cost(root: Path, stage: str) -> Cost:
    """The sum over the jobs of a stage that have run; all zero where none has."""
    total = Cost()
    for path in sorted((root / "measured" / stage).glob("*.json")):
        try:
            cost = Cost(**read_json(path))
        except (TypeError, V4DError):
            continue  # an estimate need not fail for it
        total = Cost(*(a + b for a, b in zip(vars(total).values(), vars(cost).values(), strict=True)))
    return total


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
