"""A command under observation: all its processes, wherever they are in the tree, and what they leave."""

import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.support.project import environment

MARK = "V4D_TEST_RUN"
"""A variable in the environment that a command's processes inherit."""
SECONDS = 10
"""After which nothing of a command may be left."""


class Watched:
    """A running command with a TMPDIR of its own; what it prints goes into the file `said`."""

    def __init__(self, words: list[str], cwd: Path, tmp: Path, variables: dict[str, str]):
        self.mark = uuid.uuid4().hex
        self.tmp, self.said = tmp, cwd / f"{self.mark}.said"
        self.shared: set[Path] = set()
        env = environment() | variables | {MARK: self.mark, "TMPDIR": str(self.tmp)}
        with self.said.open("wb") as said:
            options = {"cwd": cwd, "env": env, "stdout": said, "stderr": said, "start_new_session": True}
            self.process = subprocess.Popen(words, **options)

    def living(self) -> list[psutil.Process]:
        """Its processes, zombies left out."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(MARK) == self.mark:
                    found.append(process)
        return found

    def note_shared_memory(self) -> None:
        """Remember what its processes have in /dev/shm, for `left`."""
        for process in self.living():
            with suppress(OSError):
                for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines():
                    if "/dev/shm/" in line:
                        self.shared.add(Path(line[line.index("/dev/shm/") :].removesuffix(" (deleted)")))
            self.shared |= set(Path("/dev/shm").glob(f"torch_{process.pid}_*"))

    def wait_for(self, what: Callable[[], object], seconds: float = 120):
        """Wait until something is true of the running command, and return it."""
        deadline = time.monotonic() + seconds
        while not (found := what()):
            assert self.process.poll() is None and time.monotonic() < deadline, self.said.read_text()
            time.sleep(0.05)
        return found

    def role(self, name: str) -> list[psutil.Process]:
        """Those of its processes that have a role."""
        found = []
        for process in self.living():
            with suppress(psutil.Error):
                if _role(process, self.process.pid) == name:
                    found.append(process)
        return found

    def left(self) -> list[str]:
        """What is there of it: processes, files in TMPDIR, files in /dev/shm."""
        processes = [f"{p.pid} {' '.join(p.cmdline())[:100]}" for p in self.living() if _cmdline(p)]
        files = [*self.tmp.rglob("*"), *(path for path in self.shared if path.exists())]
        return [*processes, *map(str, files)]

    def assert_nothing_is_left(self) -> None:
        """Within SECONDS from now, once the command itself has ended."""
        self.process.wait(120)
        deadline = time.monotonic() + SECONDS
        while self.left() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not self.left(), f"{self.left()}\n{self.said.read_text()}"


@contextmanager
def watched(words: list[str], cwd: Path, **variables: str) -> Iterator[Watched]:
    """Start a command, with further variables in its environment; what lives of it in the end is killed."""
    with tempfile.TemporaryDirectory(
        prefix="t-"
    ) as tmp:  # a test's own folder has too long a name for sockets
        command = Watched(words, cwd, Path(tmp), variables)
        try:
            yield command
        finally:
            for process in command.living():
                with suppress(psutil.Error):
                    process.kill()
            command.process.wait()


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _role(process: psutil.Process, main: int) -> str:
    line = " ".join(process.cmdline())
    if process.pid == main:
        return "main"
    if "resource_tracker" in line:
        return "resource tracker"
    if "forkserver" in line:
        parent = " ".join(process.parent().cmdline())
        return "worker" if "forkserver" in parent else "fork server"
    if "v4d-sweeper" in line:
        return "sweeper"
    if "ffmpeg" in line:
        return "ffmpeg"
    return "rank" if "v4d.training" in line or "v4d.evaluation" in line else "other"
