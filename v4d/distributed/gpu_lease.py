"""A lease on GPUs: jobs on one machine never share one, unless `V4D_SHARE_GPUS=1` tells them to.

A file a GPU, locked (flock) by the launcher that took the GPU and by each process that works on it. The
kernel lets go of the locks when the last of them is gone, however it ends, so nothing is left to clean up:
neither a kill -9 of the launcher frees a GPU on which its processes live on, nor can a dead job keep one.
"""

import contextlib
import errno
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from v4d.errors import V4DError
from v4d.utils.files import lock

SHARE = "V4D_SHARE_GPUS"
LEASES = "V4D_GPU_LEASES"
"""The lock files of a job's GPUs, in the order of local ranks: how the launcher tells its processes."""
HOLDER = "V4D_GPU_HOLDER"
"""The launcher's process id."""
GATE = "gate.lock"
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Gpu:
    """A GPU as CUDA_VISIBLE_DEVICES names it, and as the whole machine knows it."""

    token: str
    uuid: str


def visible_gpus() -> list[Gpu]:
    """The GPUs that this process may use.

    Asked in a process of its own: naming a GPU wakes CUDA, which then keeps memory on it. By UUID, since an
    index means another GPU in another container or Slurm step.
    """
    code = (
        "import torch.cuda as c; print(*(c.get_device_properties(i).uuid for i in range(c.device_count())))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise V4DError(f"the GPUs cannot be listed: {last}")
    uuids = done.stdout.split()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    tokens = [token.strip() for token in named.split(",")] if named else [str(i) for i in range(len(uuids))]
    return [Gpu(token, uuid) for token, uuid in zip(tokens, uuids, strict=False)]


def lease_folder() -> Path:
    """One folder for all users of the machine; each container has its own, as it has its own GPUs.

    Not below TMPDIR: jobs that have other ones share the GPUs all the same.
    """
    folder = Path("/tmp/v4d-gpus")
    with contextlib.suppress(OSError):  # it is there, or its first file says what is wrong
        folder.mkdir()
        folder.chmod(0o1777)
    return folder


@contextmanager
def lease(gpus: Sequence[Gpu], count: int, folder: Path) -> Iterator[list[Gpu]]:
    """Hold `count` free GPUs; while there are too few, wait and print which process holds them.

    All or none are taken: two jobs that wait never hold what the other one needs.

    Raises:
        V4DError: there are fewer GPUs than `count`, or the folder cannot be written.
    """
    if count > len(gpus):
        raise V4DError(f"{count} GPUs are needed, {len(gpus)} are visible")
    said = False
    while (taken := _take(gpus, count, folder)) is None:
        if not said:
            print(_waiting_words(gpus, count, folder), file=sys.stderr, flush=True)
            said = True
        time.sleep(POLL_SECONDS)
    with taken[1]:
        yield taken[0]


def lock_file(gpu: Gpu, folder: Path) -> Path:
    """The file whose lock is the lease on a GPU."""
    return folder / f"{gpu.uuid}.lock"


def hold(path: Path, launcher: int | str) -> TextIO:
    """Share a launcher's lock for as long as the file that is returned stays open.

    Raises:
        V4DError: the launcher is gone, and another job holds the GPU.
    """
    file = _open(path)
    with _open(path.with_name(GATE)) as gate:
        lock(gate.fileno())
        holder = _holder(file)
        if holder == str(launcher):
            lock(file.fileno(), shared=True)  # safe: exclusive attempts need the gate lock, which we hold
            return file
    file.close()
    raise V4DError(f"the GPU of {path} was leased by process {launcher}, and is now by process {holder}")


def _take(gpus: Sequence[Gpu], count: int, folder: Path) -> tuple[list[Gpu], ExitStack] | None:
    """The first `count` free GPUs with what holds them, or None."""
    taken: dict[Gpu, TextIO] = {}
    with _open(folder / GATE) as gate, ExitStack() as stack:
        # The gate lock makes the jobs take GPUs one after the other: no other job can lock a GPU between the
        # exclusive attempt and its change into the shared lock that the ranks join.
        lock(gate.fileno())
        for gpu in gpus:
            if len(taken) == count:
                break
            file = stack.enter_context(_open(lock_file(gpu, folder)))
            if lock(file.fileno(), wait=False):
                lock(file.fileno(), shared=True)
                taken[gpu] = file
        if len(taken) < count:
            return None
        for file in taken.values():
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
        return list(taken), stack.pop_all()


def _open(path: Path) -> TextIO:
    """Open for reading and writing; the user who creates the file lets all users write to it.

    Other users can put things there, too. A link would have a file of this user's own truncated: links, and
    whatever is no regular file of one name, are refused; so is a folder in which anybody may replace files.

    Made apart from opened: in a folder that all may write, Linux refuses O_CREAT on another user's file.
    """
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if os.fstat(folder).st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH:
                raise PermissionError(errno.EPERM, "anybody may replace the files of this folder")
            with contextlib.suppress(FileExistsError):
                made = os.open(path.name, os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder)
                os.fchmod(made, 0o666)  # whatever the umask
                os.close(made)
            # Not blocking: a FIFO would have it wait for ever.
            how = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            file = os.open(path.name, how, dir_fd=folder)
        finally:
            os.close(folder)
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            os.close(file)
            raise PermissionError(errno.EPERM, "it is no regular file of one name")
    except OSError as error:
        why = "it is a link" if error.errno == errno.ELOOP else error.strerror
        raise V4DError(f"GPUs cannot be leased: {path}: {why}; {SHARE}=1 goes without") from error
    return os.fdopen(file, "r+", errors="replace")


def _holder(file: TextIO) -> str:
    """The process id in a lock file; "unknown" for whatever else a user has written into it."""
    text = file.read(20)
    return text if text.isdecimal() else "unknown"


def _waiting_words(gpus: Sequence[Gpu], count: int, folder: Path) -> str:
    holders = set()
    for gpu in gpus:
        with _open(lock_file(gpu, folder)) as file:
            holders.add(_holder(file))
    named = ", ".join(sorted(holders))
    return (
        f"waiting for {count} of {len(gpus)} GPU{'s' if len(gpus) > 1 else ''}: they are leased to process "
        f"{named}; {SHARE}=1 would share them"
    )
