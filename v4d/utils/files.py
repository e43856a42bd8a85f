"""Files that are either whole or not there, and locks between processes.

Every output of the pipeline is written beside its target under a temporary name, synced and
renamed, so that a kill -9 or a full disk leaves the old file or none, never half of one.
"""

import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from v4d.errors import V4DError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success sync it and rename it over `path`.

    Where the block raises, the temporary file is removed and `path` stays as it was. The temporary
    name ends like the target, for writers that go by the suffix, and holds the process id, so that
    two writers do not meet.

    Raises:
        V4DError: the disk is full or the folder cannot be written.
    """
    path = Path(path)
    if not path.name:
        raise V4DError(f"cannot write {path}: it is a folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise V4DError(f"cannot write {path}: {error}") from error
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        sync_file(temporary)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise V4DError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Have the kernel put a file's bytes on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Have the kernel put a folder's entries on the disk, so that a rename outlives a power cut."""
    sync_file(path)


def existing_folder(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def free_bytes(path: Path) -> int:
    """Free space of the disk that `path` is on, or would be."""
    return shutil.disk_usage(existing_folder(path)).free


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in one go (UTF-8)."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON file in one go, keys in the order given."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_csv(path: str | Path, table: Any) -> None:
    """Write a table (pandas) as CSV in one go, without its index."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        V4DError: there is no such file, or it is no JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise V4DError(f"no such file: {path}") from error
    except (ValueError, OSError) as error:
        raise V4DError(f"cannot read {path}: {error}") from error


def file_sha256(path: Path) -> str:
    """A file's sha256, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_lock_file(path: Path) -> int:
    """Open a file that processes lock, and create it where there is none; its descriptor.

    Closing the descriptor gives the lock back, and so does the end of the process, however it ends.
    """
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def lock(descriptor: int, *, shared: bool = False, wait: bool = True) -> bool:
    """Take the kernel's lock on an open file.

    Args:
        shared: several processes may hold it, but none that wants it alone.
        wait: wait for the process that has it.

    Returns:
        False where another process has it and `wait` is off.

    Raises:
        OSError: the file system has no locks.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def opened_lock(path: Path) -> Iterator[TextIO]:
    """Open a lock file that says who holds it, and create it and its folder where there is none.

    Raises:
        V4DError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise V4DError(f"cannot write in {path.parent}: {error.strerror}") from error
    with file:
        yield file


def lock_if_possible(descriptor: int, what: Path, *, wait: bool) -> bool:
    """As `lock`; where the file system has no locks, print that `what` has none, and go on."""
    try:
        return lock(descriptor, wait=wait)
    except OSError as error:
        print(f"warning: no lock on {what}: {error.strerror}", file=sys.stderr, flush=True)
        return True


@contextmanager
def exclusive(*outputs: Path) -> Iterator[None]:
    """Hold the lock of a job's first output; temporary files of killed predecessors are removed.

    When only Snakemake is killed, its jobs go on: the next run's job then waits for the one that is still
    writing.

    Raises:
        V4DError: the folder cannot be written.
    """
    first = outputs[0]
    with opened_lock(first.with_name(f".{first.name}.lock")) as file:
        if not lock_if_possible(file.fileno(), first, wait=False):
            print(f"waiting for another process that is writing {first}", file=sys.stderr, flush=True)
            lock_if_possible(file.fileno(), first, wait=True)
        for output in outputs:
            for leftover in output.parent.glob(f".{output.stem}.*.tmp{output.suffix}"):
                leftover.unlink(missing_ok=True)
        yield
