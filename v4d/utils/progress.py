"""Progress with a rate and the time left: a bar on a terminal, a line now and then in a log file."""

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TypeVar

Item = TypeVar("Item")
LOG_SECONDS = 15.0
"""Seconds between two lines where stderr is no terminal."""


def progress(
    items: Iterable[Item], *, total: int | None = None, what: str = "", unit: str = "it"
) -> Iterator[Item]:
    """Iterate over `items` and show how far it is, on stderr."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    shown = meter(what, total, unit)
    for item in items:
        yield item
        shown.update()
    shown.close()


def meter(what: str, total: int | None, unit: str) -> Any:
    """What shows how far a work is: `update(n)` where n units are done, `close()` at the end."""
    if not sys.stderr.isatty():
        return LogLines(what, total, unit)
    from tqdm import tqdm

    return tqdm(desc=what, total=total, unit=unit, dynamic_ncols=True)


class LogLines:
    """Counts work done and prints `what: 120/480 clips, 14.2 clips/s, 0:25 left` every `LOG_SECONDS`."""

    def __init__(self, what: str, total: int | None, unit: str):
        self.what, self.total, self.unit = what, total, unit
        self.done = 0
        self.start = self.last = time.monotonic()

    def update(self, count: int = 1) -> None:
        """Count `count` more as done; print where the last line is `LOG_SECONDS` old."""
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
