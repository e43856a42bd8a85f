"""Progress with a rate and the time left: a bar on a terminal, a line now and then in a log file."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

Item = TypeVar("Item")
LOG_SECONDS = 15.0
"""Seconds between two lines where stderr is no terminal."""


def progress(
    items: Iterable[Item], *, total: int | None = None, what: str = "", unit: str = "it"
) -> Iterator[Item]:
    """Iterate over `items` and show how far it is, on stderr."""
    if sys.stderr.isatty():
        from tqdm import tqdm  # a job on a cluster needs none

        yield from tqdm(items, total=total, desc=what, unit=unit, dynamic_ncols=True)
        return
    if total is None:
        total = len(items) if isinstance(items, Sized) else None
    lines = LogLines(what, total, unit)
    for item in items:
        yield item
        lines.advance()
    lines.close()


class LogLines:
    """Counts work done and prints `what: 120/480 clips, 14.2 clips/s, 0:25 left` every `LOG_SECONDS`."""

    def __init__(self, what: str, total: int | None, unit: str):
        self.what, self.total, self.unit = what, total, unit
        self.done = 0
        self.start = self.last = time.monotonic()

    def advance(self, count: int = 1) -> None:
        """Count work that is done, and print a line where it is time."""
        self.done += count
        now = time.monotonic()
        if now - self.last >= LOG_SECONDS:
            self.last = now
            self._print(now)

    def close(self) -> None:
        """Print the last line."""
        self._print(time.monotonic())

    def _print(self, now: float) -> None:
        rate = self.done / max(now - self.start, 1e-9)
        text = f"{self.what}: {self.done}"
        if self.total is not None:
            text += f"/{self.total}"
        text += f" {self.unit}, {rate:.1f} {self.unit}/s"
        if self.total is not None and rate > 0:
            left = int((self.total - self.done) / rate)
            text += (
                f", {left // 60}:{left % 60:02d} left"
                if self.done < self.total
                else f", done in {int(now - self.start)} s"
            )
        print(text, file=sys.stderr, flush=True)
