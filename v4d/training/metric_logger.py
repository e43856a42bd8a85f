"""What people and the tracker see of a training: a line every few steps, a row an epoch."""

import resource
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from v4d.data.loader import Loader
from v4d.tracking import Tracker
from v4d.training.step import TrainState, TrainStep

WAIT_WARNING = 0.2
"""Share of time spent waiting for data above which something should be changed."""


@dataclass(frozen=True)
class RunInfo:
    """What does not change while a stage is trained."""

    title: str
    """Model and stage, in front of every line."""
    train_videos: int
    """Number of training videos, over all ranks."""
    val_videos: int
    """Number of validation videos, over all ranks."""
    classes: int
    """Number of classes."""
    epoch_offset: int = 0
    """Epochs of the stages before: where this one's curves begin."""
    step_offset: int = 0
    """Optimiser steps of the stages before."""


class MetricLogger:
    """Prints on rank 0 and logs; measures the time."""

    def __init__(
        self, run: RunInfo, tracker: Tracker, state: TrainState, loader: Loader, train_step: TrainStep
    ):
        self.run, self.tracker, self.state = run, tracker, state
        self.loader, self.train_step, self.settings = loader, train_step, train_step.settings
        self.context = train_step.context
        self.last = self.epoch_start = self.begun = time.monotonic()
        self.videos = 0.0  # seen by this process in this epoch, which it may have joined in the middle
        self.first = self._epochs_done()
        self.warned = False

    def started(self) -> None:
        """A line in front of the first step."""
        run, state = self.run, self.state
        where = f"epoch {state.epoch + 1}, step {state.step + 1}"
        if self._epochs_done() == state.epoch + 1:
            where = f"the validation of epoch {state.epoch + 1}"
        size = self.context.size
        self.say(
            f"{run.train_videos} training and {run.val_videos} validation videos, "
            f"{run.classes} classes, batch {self.settings.batch_size} on "
            + ("1 process" if size == 1 else f"{size} processes")
            + (f"; goes on at {where}" if state.history or state.step else "")
        )

    def steps_done(self, steps: int, totals: list[float]) -> None:
        """A line for the steps since the last one.

        Args:
            steps: optimiser steps of an epoch.
            totals: sums over all ranks since the last line: loss, correct ones, videos, skipped ones.
        """
        run, state, now = self.run, self.state, time.monotonic()
        seconds, self.last = now - self.last, now
        state.seconds += seconds
        loss, correct, videos, _ = totals
        part = state.epoch + state.step / steps
        lr = self.train_step.lr(part - 1 / steps)
        self.videos += videos
        self.tracker.log_metrics(
            {"train_step/loss": loss / max(videos, 1), "train_step/lr": lr},
            step=run.step_offset + state.epoch * steps + state.step,
            once=True,
        )
        epochs = self.settings.epochs
        left = (now - self.begun) / max(part - self.first, 1e-9) * (epochs - part)
        self.say(
            f"epoch {state.epoch + 1}/{epochs} step {state.step}/{steps}  "
            f"loss {loss / max(videos, 1):.4f}  top-1 {100 * correct / max(videos, 1):.1f} %  lr {lr:.2g}  "
            f"{videos / seconds:.1f} videos/s  wait {100 * self.loader.data_wait_fraction:.0f} %  "
            f"{_memory(self.context.device):.1f} GB  {int(left) // 60}:{int(left) % 60:02d} left"
        )
        self._warn()

    def epoch_ended(self, validation: dict[str, float]) -> None:
        """The row of an epoch: printed, logged, kept for metrics.json."""
        run, state = self.run, self.state
        loss, correct, videos, skipped = state.sums
        seconds = time.monotonic() - self.epoch_start
        steps = len(self.loader) // self.settings.accumulate
        row = {
            "train/loss": loss / max(videos, 1),
            "train/top1": 100 * correct / max(videos, 1),
            "train/lr": self.train_step.lr(state.epoch + 1 - 1 / steps),
            **validation,
            "perf/videos_per_second": self.videos / max(self.last - self.epoch_start, 1e-9),
            "perf/data_wait_fraction": self.loader.data_wait_fraction,
        }
        if skipped:
            row["train/skipped_videos"] = skipped
        self.tracker.log_metrics(row, step=run.epoch_offset + state.epoch + 1, once=True)
        state.history.append({"epoch": state.epoch + 1, **row, "seconds": round(seconds, 2)})
        for line in epoch_table(state.history, self.settings.epochs):
            self.say(line)
        self.epoch_start = self.last = time.monotonic()
        self.videos = 0.0

    def say(self, text: str) -> None:
        """Print a line on rank 0."""
        if self.context.is_main:
            print(f"{self.run.title}: {text}", flush=True)

    def _epochs_done(self) -> float:
        """How far the training is, in epochs."""
        done = self.state.step * self.settings.batch_size / self.run.train_videos
        return self.state.epoch + min(done, 1.0)

    def _warn(self) -> None:
        wait = self.loader.data_wait_fraction
        if self.warned or wait < WAIT_WARNING:
            return
        self.warned = True
        workers = self.settings.workers
        self.say(
            f"waits for data {100 * wait:.0f} % of the time: raise training.workers "
            f"(now {'automatic' if workers is None else workers}), set training.locality where frames do not "
            "fit into memory, or put data/ on a faster disk"
        )


COLUMNS = {
    "train loss": ("train/loss", ".4f"),
    "top-1 %": ("train/top1", ".1f"),
    "val loss": ("val/loss", ".4f"),
    "val top-1 %": ("val/top1", ".1f"),
    "val top-5 %": ("val/top5", ".1f"),
    "videos/s": ("perf/videos_per_second", ".1f"),
    "wait %": ("perf/data_wait_fraction", ".0%"),
    "seconds": ("seconds", ".0f"),
}


def epoch_table(history: list[dict[str, float]], epochs: int, rows: int = 3) -> list[str]:
    """The last epochs side by side, and the best one (`*`) where it is longer ago."""
    best = max(history, key=lambda row: row["val/top1"])  # the first one of several
    shown = [row for row in history if row is best or row in history[-rows:]]
    lines = ["  ".join([f"{'epoch':>9}", *COLUMNS])]
    for row in shown:
        mark = "*" if row is best else " "
        cells = [f"{row['epoch']:>{len(str(epochs))}}/{epochs} {mark}".rjust(9)]
        for title, (key, form) in COLUMNS.items():
            cells.append(format(row[key], form).removesuffix("%").rjust(len(title)))
        lines.append("  ".join(cells))
    return lines


def _memory(device: torch.device) -> float:
    """Peak GB on the GPU, or this process's resident GB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e9
