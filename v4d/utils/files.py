"""Files that are either whole or not there.

Every output of the pipeline is written beside its target under a temporary name, synced and
renamed, so that a kill -9 or a full disk leaves the old file or none, never half of one.
"""

import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
