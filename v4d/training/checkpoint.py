"""Checkpoints: the whole state of a training, in a folder that one job at a time may write.

results/<name>/<model>/<stage>/checkpoints/
    last.pt                   the newest state: the end of an epoch, or a moment inside one
    epoch_0012.pt             the last `keep` ends of epochs
    best.pt                   the end of the epoch with the highest validation top-1
    superseded-<sha>/         states of other settings: set aside, never deleted
    .lock                     held by the running job

What is random (augmentation, dropout, order) is drawn anew from (seed, epoch, step or video), so that the
position in the training is all the state that generators need; see `step.seed_step`.
"""

import itertools
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from v4d.errors import V4DError
from v4d.models.checkpoint import read_weights, write_weights
from v4d.utils.files import atomic_path, lock_if_possible, opened_lock

FORMAT = 1


class CheckpointManager:
    """Reads and writes the states of one training stage."""

    def __init__(self, folder: Path, keep: int):
        self.folder, self.keep = folder, keep

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process; the kernel frees it when the process is gone, however it ends.

        Raises:
            V4DError: another process holds it, e.g. one that outlived a killed workflow.
        """
        with opened_lock(self.folder / ".lock") as file:
            if not lock_if_possible(file.fileno(), self.folder, wait=False):
                file.seek(0)
                raise V4DError(
                    f"{self.folder} is being written by process {file.read().strip() or 'unknown'} "
                    "(a training that outlived its workflow?); wait for it or end it"
                )
            file.truncate(0)
            file.write(f"{os.getpid()} on {socket.gethostname()}")
            file.flush()
            for leftover in self.folder.glob(".*.tmp*"):  # a process was killed while it wrote
                leftover.unlink(missing_ok=True)
            yield

    def save(self, state: dict[str, Any], *, end_of_epoch: bool, best: bool) -> None:
        """Write `last.pt`, and at the end of an epoch its own file; prune the oldest."""
        last = self.folder / "last.pt"
        write_weights(last, state | {"format": FORMAT})
        if end_of_epoch:
            _link(last, self.folder / f"epoch_{state['epoch']:04d}.pt")
            for old in sorted(self.folder.glob("epoch_*.pt"))[: -self.keep]:
                old.unlink()
        if best:
            _link(last, self.folder / "best.pt")

    @property
    def debug(self) -> Path:
        """Where the state of a training goes that has gone wrong, beside the others."""
        return self.folder / "debug.pt"

    def save_debug(self, state: dict[str, Any]) -> None:
        """Write `debug`."""
        write_weights(self.debug, state | {"format": FORMAT})

    def load(self) -> dict[str, Any] | None:
        """The newest readable state, or None where there is none."""
        path = self.folder / "last.pt"
        if not path.exists():
            return None
        state = read_weights(path)
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise V4DError(f"{path} is no checkpoint of this version (format {FORMAT})")
        return state

    @contextmanager
    def set_aside(self, name: str) -> Iterator[Path]:
        """Move all states into a folder of their own and start afresh; nothing is deleted.

        `last.pt` goes when the block ends: a process that is killed before finds everything to do again.
        """
        names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        targets = (self.folder / f"superseded-{each}" for each in names)
        target = next(target for target in targets if not (target / "last.pt").exists())
        target.mkdir(exist_ok=True)
        for path in self.folder.glob("*.pt"):
            if path.name != "last.pt":
                path.replace(target / path.name)
        yield target
        (self.folder / "last.pt").replace(target / "last.pt")


def check_identity(before: dict[str, Any], identity: dict[str, Any], folder: Path) -> None:
    """Refuse a state that was written for another data set, class list or architecture (`before`).

    Raises:
        V4DError: one line with the first difference.
    """
    for key, now in identity.items():
        then = before.get(key)
        if then == now:
            continue
        if isinstance(then, dict) and isinstance(now, dict):
            name = next((name for name in sorted(then | now) if then.get(name) != now.get(name)), "")
            if name:
                key, then, now = f"{key}.{name}", then.get(name), now.get(name)
        elif isinstance(then, list) and isinstance(now, list):
            odd = sorted(set(map(str, then)) ^ set(map(str, now)))
            key, then, now = f"{key} ({', '.join(odd[:3]) or 'order'})", len(then), len(now)
        raise V4DError(
            f"{folder} was written for another training: {key} was {then}, is now {now}; "
            "give this config another name, or move that folder away"
        )


def _link(source: Path, target: Path) -> None:
    """Another name for the same bytes; a copy where the file system has no hard links."""
    with atomic_path(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
