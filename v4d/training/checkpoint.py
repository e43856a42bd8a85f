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

import fcntl
import itertools
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from v4d.errors import V4DError
from v4d.models.checkpoint import read_weights, write_weights

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
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / ".lock").open("a+")
        except OSError as error:
            raise V4DError(f"cannot write in {self.folder}: {error.strerror}") from error
        with lock:
            self._acquire(lock)
            for leftover in self.folder.glob(".*.tmp*"):  # a process was killed while it wrote
                leftover.unlink(missing_ok=True)
            yield

    def _acquire(self, lock: TextIO) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise V4DError(
                f"{self.folder} is being written by process {holder} "
                "(a training that outlived its workflow?); wait for it or end it"
            ) from error
        except OSError as error:  # the file system has no locks
            print(f"warning: no lock on {self.folder}: {error.strerror}", file=sys.stderr, flush=True)
        lock.truncate(0)
        lock.write(f"{os.getpid()} on {socket.gethostname()}")
        lock.flush()

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

    def save_debug(self, state: dict[str, Any]) -> Path:
        """The state of a training that has gone wrong, beside the others."""
        path = self.folder / "debug.pt"
        write_weights(path, state | {"format": FORMAT})
        return path

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
            key, then, now = _first_difference(key, then, now)
        elif isinstance(then, list) and isinstance(now, list):
            odd = sorted(set(map(str, then)) ^ set(map(str, now)))
            key, then, now = f"{key} ({', '.join(odd[:3]) or 'order'})", len(then), len(now)
        raise V4DError(
            f"{folder} was written for another training: {key} was {then}, is now {now}; "
            "give this config another name, or move that folder away"
        )


def _first_difference(key: str, then: dict, now: dict) -> tuple[str, Any, Any]:
    for name in sorted(set(then) | set(now)):
        if then.get(name) != now.get(name):
            return f"{key}.{name}", then.get(name), now.get(name)
    return key, then, now


def _link(source: Path, target: Path) -> None:
    """Another name for the same bytes; a copy where the file system has no hard links."""
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    temporary.replace(target)
