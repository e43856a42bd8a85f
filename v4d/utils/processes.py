"""Work in child processes with a deadline: for libraries that hang, crash or hold the interpreter's lock.

Some videos send a decoder into an endless loop inside C code; no exception and no thread gets it out
of there, only the end of its process.
"""

import contextlib
import math
import multiprocessing
import resource
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from v4d.errors import V4DError
from v4d.utils.lifeline import end_with, lifeline

_START_SECONDS = 120
_GRACE_SECONDS = 5
_MOST_FILES = 1 << 16


@dataclass(frozen=True)
class TaskResult:
    """What became of one task: its value, or why there is none."""

    value: Any = None
    failure: str | None = None
    """None, `error` (the function raised), `timeout` or `crashed` (its process died)."""
    reason: str = ""


def run_in_children(
    function: Callable[[Any], Any], tasks: Iterable[Any], *, processes: int, deadline: float
) -> Iterator[TaskResult]:
    """Call `function` on every task in child processes; outcomes come in the order of the tasks.

    At most two tasks for each process are on their way or wait for their turn to be handed out, which
    bounds memory.

    Args:
        function: from the top level of a module, or a `functools.partial` of such; it is pickled.
        deadline: seconds a task may take; then its process is killed and replaced.

    Raises:
        V4DError: no process can be started.
    """
    numbered = enumerate(tasks)
    children = [_Child(function, deadline) for _ in range(processes)]
    finished: dict[int, TaskResult] = {}
    sent = handed_out = 0
    try:
        while True:
            for child in children:
                if not child.busy and sent - handed_out < 2 * processes and (task := next(numbered, None)):
                    child.give(*task)
                    sent += 1
            if handed_out == sent:  # and there is no task more, or an idle child would have it
                return
            finished.update(_collect([child for child in children if child.busy]))
            while handed_out in finished:
                yield finished.pop(handed_out)
                handed_out += 1
    finally:
        for child in children:
            child.stop()


def raise_file_limit() -> int:
    """Let this process open as many files as its user may grant it (`ulimit -n`); how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return most
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


@contextlib.contextmanager
def signals_held_back(*numbers: signal.Signals) -> Iterator[None]:
    """Whatever is started here, a fork server too, does not hear these signals; nor does what that starts."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        resource_tracker.ensure_running()  # when it starts, it lets SIGINT and SIGTERM through again
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _collect(busy: list["_Child"]) -> dict[int, TaskResult]:
    """Wait until at least one of the busy children is done, one way or the other."""
    first = min(child.until for child in busy)
    ready = wait([child.connection for child in busy], max(0.0, first - time.monotonic()))
    outcomes: dict[int, TaskResult] = {}
    for child in busy:
        number = child.number
        if child.connection in ready:
            outcomes[number] = child.take()
        elif child.until <= time.monotonic():
            child.restart()
            outcomes[number] = TaskResult(failure="timeout", reason=f"not done after {child.deadline:g} s")
    return outcomes


class _Child:
    """One child process and the task it is at.

    It is forked from a clean server process that has imported the function's module: that is safe
    beside threads, and takes milliseconds.
    """

    def __init__(self, function: Callable[[Any], Any], deadline: float):
        self.function, self.deadline = function, deadline
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([getattr(self.function, "func", self.function).__module__])
        self.busy, self.number, self.until = False, 0, math.inf
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, self.function, lifeline()), daemon=True)
        try:
            with signals_held_back(signal.SIGINT):  # this process ends its children itself
                self.process.start()
        except (EOFError, OSError) as error:  # the server has died
            raise V4DError(f"no child process can be started: {error}; is the memory used up?") from error
        theirs.close()
        if not self.connection.poll(_START_SECONDS) or self._receive() != "ready":
            raise V4DError(f"a child process has not started within {_START_SECONDS} s, or has died")

    def give(self, number: int, task: Any) -> None:
        self.busy, self.number, self.until = True, number, time.monotonic() + self.deadline
        with contextlib.suppress(BrokenPipeError):  # it died while idle: take() finds out
            self.connection.send(task)

    def take(self) -> TaskResult:
        """The outcome of the task; a child that died is replaced."""
        outcome = self._receive()
        if outcome is None:
            self.process.join(_GRACE_SECONDS)
            reason = f"the process ended with exit code {self.process.exitcode}"
            self.restart()
            return TaskResult(failure="crashed", reason=reason)
        self.busy = False
        return outcome

    def restart(self) -> None:
        self.stop()
        self._start()

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.process.close()
        self.connection.close()

    def _receive(self) -> Any:
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            return None


def _serve(connection: Connection, function: Callable[[Any], Any], parent: str) -> None:
    """What a child does: one task after the other until its parent ends it, or has ended itself."""
    end_with(parent)
    with contextlib.suppress(OSError):  # the parent was ended meanwhile: recv() finds out
        connection.send("ready")
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        try:
            outcome = TaskResult(function(task))
        except Exception as error:
            outcome = TaskResult(failure="error", reason=f"{type(error).__name__}: {error}")
        try:
            connection.send(outcome)
        except OSError:
            return
