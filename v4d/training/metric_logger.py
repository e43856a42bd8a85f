"""What people and the tracker see of a training: a line every few steps, a row an epoch."""

import time
from typing import TYPE_CHECKING

import psutil
import torch

from v4d.data.loader import Loader
from v4d.models.v4d import VideoNet
from v4d.tracking import Tracker
from v4d.training.step import TrainState, TrainStep

if TYPE_CHECKING:
    from v4d.training.trainer import Trainer

WAIT_WARNING = 0.2
"""Share of time spent waiting for data above which something should be changed."""


class Reporter:
    """Prints on rank 0 and logs; knows the time."""

    def __init__(self, run: "Trainer", tracker: Tracker, position: TrainState):
        self.run, self.tracker = run, tracker
        self.title = f"{run.model_config.name} {run.stage.name}"
        self.last = self.epoch_start = time.monotonic()
        self.videos = 0.0  # of this epoch that this process has seen, which may have begun in its middle
        self.begun = time.monotonic()
        self.first = position.epoch + 0.0
        self.warned = False

    def started(self, model: VideoNet, position: TrainState) -> None:
        settings = self.run.settings
        where = f"epoch {position.epoch + 1}, step {position.step + 1}"
        if self._part(position) == 1:
            where = f"the validation of epoch {position.epoch + 1}"
        self.say(
            f"{len(self.run.train_videos)} training and {len(self.run.val_videos)} validation videos, "
            f"{len(self.run.classes)} classes, batch {settings.batch_size} on "
            + ("1 process" if self.run.ranks.size == 1 else f"{self.run.ranks.size} processes")
            + (f"; goes on at {where}" if position.history or position.step else "")
        )
        self.epoch_start = self.last = self.begun = time.monotonic()
        self.first = position.epoch + self._part(position)

    def steps_done(
        self, position: TrainState, steps: int, totals: list[float], loader: Loader, learner: TrainStep
    ) -> None:
        """A line for the steps since the last one."""
        now = time.monotonic()
        seconds, self.last = now - self.last, now
        position.seconds += seconds
        loss, correct, videos, _ = totals
        part = position.epoch + position.step / steps
        lr = learner.lr(part - 1 / steps)
        self.videos += videos
        self.tracker.log_metrics(
            {"train_step/loss": loss / max(videos, 1), "train_step/lr": lr},
            step=self.run.step_offset + position.epoch * steps + position.step,
            once=True,
        )
        left = (now - self.begun) / max(part - self.first, 1e-9) * (self.run.settings.epochs - part)
        self.say(
            f"epoch {position.epoch + 1}/{self.run.settings.epochs} step {position.step}/{steps}  "
            f"loss {loss / max(videos, 1):.4f}  top-1 {100 * correct / max(videos, 1):.1f} %  lr {lr:.2g}  "
            f"{videos / seconds:.1f} videos/s  wait {100 * loader.data_wait_fraction:.0f} %  "
            f"{_memory(self.run.ranks.device):.1f} GB  {int(left) // 60}:{int(left) % 60:02d} left"
        )
        self._warn(loader)

    def epoch_ended(
        self, position: TrainState, validation: dict[str, float], loader: Loader, learner: TrainStep
    ) -> None:
        """The row of an epoch: printed, logged, kept for metrics.json."""
        loss, correct, videos, skipped = position.sums
        seconds = time.monotonic() - self.epoch_start
        steps = len(loader) // self.run.settings.accumulate
        row = {
            "train/loss": loss / max(videos, 1),
            "train/top1": 100 * correct / max(videos, 1),
            "train/lr": learner.lr(position.epoch + 1 - 1 / steps),
            **validation,
            "perf/videos_per_second": self.videos / max(self.last - self.epoch_start, 1e-9),
            "perf/data_wait_fraction": loader.data_wait_fraction,
        }
        if skipped:
            row["train/skipped_videos"] = skipped
        self.tracker.log_metrics(row, step=self.run.epoch_offset + position.epoch + 1, once=True)
        position.history.append({"epoch": position.epoch + 1, **row, "seconds": round(seconds, 2)})
        for line in epoch_table(position.history, self.run.settings.epochs):
            self.say(line)
        self.epoch_start = self.last = time.monotonic()
        self.videos = 0.0

    def say(self, text: str) -> None:
        if self.run.ranks.is_main:
            print(f"{self.title}: {text}", flush=True)

    def _part(self, position: TrainState) -> float:
        batch = self.run.settings.batch_size
        return min(position.step * batch / len(self.run.train_videos), 1.0)

    def _warn(self, loader: Loader) -> None:
        if self.warned or loader.data_wait_fraction < WAIT_WARNING:
            return
        self.warned = True
        workers = self.run.settings.workers
        self.say(
            f"waits for data {100 * loader.data_wait_fraction:.0f} % of the time: raise training.workers "
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
    best = max(history, key=lambda row: row["val/top1"])  # the first of equals
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
    return psutil.Process().memory_info().rss / 1e9
