"""What a process has started ends with it, however it ends: its children, and its temporary files.

A child has a pipe to watch whose writing end is open in that one process, so that the kernel closes it with
the process. The kernel also is who kills the child then: F_SETSIG and O_ASYNC on the reading end have it send
SIGKILL. So no child can miss it, whether it hangs in C code, holds the interpreter's lock, blocks signals or
knows nothing of it, as ffmpeg does. (PR_SET_PDEATHSIG follows the thread that forked, not the process.)

What is killed tells its own children in the same way; a process that only passes work on, such as a fork
server, is left without clients and ends by itself.
"""

import atexit
import ctypes
import fcntl
import os
import select
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

LONGEST_BASE = 60
"""Letters of TMPDIR: what multiprocessing puts below it are sockets, whose paths end at 107."""
_LASTING = "V4D_LASTING_TMPDIR"
_PR_SET_PDEATHSIG = 1
_ENDS: list[int] = []
"""The pipe of this process, when somebody watches it: reading and writing end."""
_LOCK = threading.Lock()
_SWEEPERS: list[subprocess.Popen[bytes]] = []
"""Held, since a Popen that goes away while its process lives on is complained of."""
_SWEEP = """
read -r end
for attempt in 1 2 3; do rm -rf -- "$1" && exit; sleep 1; done
"""
_UNHEARD = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that may be sent to every process of a job; who removes its files does not hear them."""


def lifeline() -> str:
    """The path by which other processes of this user watch this one: see `end_with`."""
    with _LOCK:
        if not _ENDS:
            _ENDS.extend(os.pipe())
    return f"/proc/{os.getpid()}/fd/{_ENDS[0]}"


def end_with(line: str) -> None:
    """Have this process killed when the one whose `lifeline` that is has ended, or at once if it has."""
    try:
        reader = _watch(line)
    except (FileNotFoundError, ProcessLookupError):
        os.kill(os.getpid(), signal.SIGKILL)
        raise  # not reached
    _kill_at_end(reader, os.getpid())
    ended = select.poll()
    ended.register(reader)
    if ended.poll(0):
        os.kill(os.getpid(), signal.SIGKILL)


def end_with_fork_server() -> None:
    """Have this process killed when the fork server that it comes from has ended.

    That one forks from its only thread, so that PR_SET_PDEATHSIG will do.
    """
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def start_tied(
    command: Sequence[str], *, pass_fds: Sequence[int] = (), **options: Any
) -> subprocess.Popen[bytes]:
    """Start a command, of any program, as a process group that is killed when this process has ended.

    Should this process be killed in the microseconds between, the command runs to its own end.
    """
    reader = _watch(lifeline())
    try:
        child = subprocess.Popen(command, pass_fds=(*pass_fds, reader), start_new_session=True, **options)
        _kill_at_end(reader, -child.pid)
    finally:
        os.close(reader)  # the child has it, and what was asked of the kernel goes with it
    return child


def keep_temporary_files_together() -> None:
    """Give this process and its children a TMPDIR of their own, which is removed when this process has ended.

    A shell does it that outlives a kill -9 by a moment. Without a folder to write in, everything stays as it
    is: a command that needs temporary files will say so.
    """
    usual = tempfile.gettempdir()
    with suppress(OSError):
        folder = tempfile.mkdtemp(prefix="v4d-", dir=usual if len(usual) <= LONGEST_BASE else "/tmp")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ[_LASTING] = usual
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        reader = os.open(lifeline(), os.O_RDONLY | os.O_CLOEXEC)  # blocks, as the shell expects
        nowhere = subprocess.DEVNULL  # a `tee` behind this process must not wait for the shell
        words = ["/bin/sh", "-c", _SWEEP, "v4d-sweeper", folder]
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _UNHEARD)  # inherited
        try:
            sweeper = subprocess.Popen(
                words, cwd="/", start_new_session=True, stdin=reader, stdout=nowhere, stderr=nowhere
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(reader)
        _SWEEPERS.append(sweeper)


def lasting_folder() -> str:
    """The folder for temporary files that are to outlive this command, such as a cache."""
    return os.environ.get(_LASTING) or tempfile.gettempdir()


def _watch(line: str) -> int:
    """A reading end opened anew: what is asked of the kernel belongs to an open file, which copies share."""
    return os.open(line, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def _kill_at_end(reader: int, owner: int) -> None:
    """Have the kernel kill a process (or, negative, a group) when the pipe has no writing end any more."""
    fcntl.fcntl(reader, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(reader, fcntl.F_SETOWN, owner)
    fcntl.fcntl(reader, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)


def _forget() -> None:
    """A forked process is another one: it must not hold its parent's pipe open."""
    global _LOCK
    _LOCK = threading.Lock()
    for end in _ENDS:
        os.close(end)
    _ENDS.clear()


os.register_at_fork(after_in_child=_forget)
