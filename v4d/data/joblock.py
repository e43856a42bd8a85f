"""One process at a time per output, and no litter of those that were killed."""

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from v4d.errors import V4DError


@contextmanager
def exclusive(*outputs: Path) -> Iterator[None]:
    """Hold the lock of a job's first output; temporary files of killed predecessors are removed.

    When only Snakemake is killed, its jobs live on: the next run's job then waits for the one that is
    still writing. The lock is the kernel's and goes with the process, however it ends.

    Raises:
        V4DError: the folder cannot be written.
    """
    first = outputs[0]
    lock = first.with_name(f".{first.name}.lock")
    try:
        for output in outputs:
            output.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise V4DError(f"cannot write in {first.parent}: {error.strerror}") from error
    try:
        _wait_for(descriptor, first)
        for output in outputs:
            for leftover in output.parent.glob(f".{output.stem}.*.tmp{output.suffix}"):
                leftover.unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)


def _wait_for(descriptor: int, output: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"waiting for another process that is writing {output}", file=sys.stderr, flush=True)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:  # a file system without locks
        print(f"warning: no lock on {output}: {error.strerror}", file=sys.stderr, flush=True)
