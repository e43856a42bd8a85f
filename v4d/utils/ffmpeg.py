"""ffmpeg as a child process: which binary, a deadline it cannot outlive, its own last words."""

import contextlib
import functools
import io
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from v4d.errors import V4DError
from v4d.utils.lifeline import start_tied

AT_LEAST = (5, 1)
"""The oldest ffmpeg that will do: the first with `-fps_mode`."""
LAST_WORDS = 300
"""Characters of a child's complaint that are kept."""
_DRAIN_SECONDS = 5
"""What may pass until the complaints of a child that has ended are read."""
# `[mov @ 0x55bd49]` and `/dev/fd/7` differ from run to run; a ledger must not.
_ADDRESS = re.compile(r"\s*@ 0x[0-9a-f]+")
_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/\d+")
_REPETITION = re.compile(r"Error opening input files?\b")
_COMPLAINT = re.compile(r"\s*\[(?:error|fatal|panic)\]\s*")


@dataclass(frozen=True)
class Finished:
    """How a child ended: `code` as in subprocess (negative for a signal), and what it said."""

    code: int
    timed_out: bool
    lines: tuple[str, ...]
    complaints: tuple[str, ...]

    def last_words(self) -> str:
        """Its complaints in one line, the first and the last of them, or failing those its last line."""
        words = " | ".join(self.complaints or self.lines[-1:])
        return words if len(words) <= LAST_WORDS else words[: LAST_WORDS - 3] + "..."


def ffmpeg_binary() -> str:
    """Path of the ffmpeg to run: $V4D_FFMPEG, else the one on PATH if it will do, else imageio-ffmpeg's.

    Distributions have ones that will not do: Ubuntu 22.04's is too old, Fedora's has no libx264.

    Raises:
        V4DError: there is none, or the one that $V4D_FFMPEG names will not do.
    """
    named = os.environ.get("V4D_FFMPEG")
    found = shutil.which(named or "ffmpeg")
    why = why_unsuitable(found) if found else "is no executable file"
    if found and not why:
        return found
    if named:
        raise V4DError(f"V4D_FFMPEG is {named!r}, which {why}")
    try:
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        what = f"{found} {why}" if found else "no ffmpeg"
        raise V4DError(f"{what}: put one on PATH, or pip install imageio-ffmpeg") from error


@functools.cache
def ffmpeg_version(binary: str) -> str:
    """The version a binary calls itself, e.g. `7.1`; part of what makes a clip reproducible."""
    text = _say(binary, "-version")
    match = re.match(r"ffmpeg version (\S+)", text)
    return match.group(1) if match else text.partition("\n")[0]


@functools.cache
def codecs(binary: str, kind: str) -> frozenset[str]:
    """Names of the `encoders` or `decoders` of a binary."""
    words = [line.split() for line in _say(binary, f"-{kind}").splitlines()]
    return frozenset(line[1] for line in words if len(line) > 1)


def why_unsuitable(binary: str) -> str:
    """Why a binary will not do, as the rest of a sentence, or ""."""
    try:
        version = ffmpeg_version(binary)
        numbers = re.match(r"n?(\d+)\.(\d+)", version)  # a nightly build has none
        if numbers and (int(numbers[1]), int(numbers[2])) < AT_LEAST:
            return f"is {version}, too old; {AT_LEAST[0]}.{AT_LEAST[1]} is needed"
        return "" if "libx264" in codecs(binary, "encoders") else "has no encoder libx264"
    except V4DError:
        return "does not run"


def _say(binary: str, question: str) -> str:
    try:
        command = [binary, "-hide_banner", question]
        answer = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise V4DError(f"{binary} does not run: {error}") from error
    return answer.stdout.decode("utf-8", "replace")


def run_with_deadline(
    command: Sequence[str | Path],
    *,
    timeout: float,
    pass_fds: Sequence[int] = (),
    stop: threading.Event | None = None,
) -> Finished:
    """Run a child until it ends, its deadline passes or `stop` is set; then its whole group is killed.

    It is killed, too, when this process is (kill -9).

    stderr is read as it comes and only its two ends are kept (ffmpeg describes its input in the first
    lines), so that a decoder that prints for hours costs no memory.

    Args:
        timeout: seconds of wall time.
        pass_fds: descriptors that the child inherits under the same numbers.
        stop: set by another thread to give up early.
    """
    deadline = time.monotonic() + timeout
    child = start_tied(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=pass_fds,
    )
    listener = _Listener()
    reader = threading.Thread(target=listener.read, args=[child.stderr], daemon=True)
    reader.start()
    timed_out = False
    try:
        # What the child has started may hold the pipe open: the end of that is not waited for.
        while not _has_ended(child):
            if time.monotonic() >= deadline or (stop and stop.is_set()):
                timed_out = True
                break
            reader.join(min(deadline - time.monotonic(), 0.5))
            if not reader.is_alive():  # the child ends in a moment
                time.sleep(0.002)
    finally:
        _kill_group(child)
    reader.join(_DRAIN_SECONDS)
    lines = (*listener.head, *listener.tail)
    return Finished(child.returncode, timed_out, lines, tuple(listener.complaints))


def _has_ended(child: subprocess.Popen) -> bool:
    """Whether a child has ended; it is not reaped, so that nobody else gets its number."""
    return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _kill_group(child: subprocess.Popen) -> None:
    """Kill what is left of the child's process group, also where it has ended itself, and reap the child."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


class _Listener:
    """Collects a child's stderr: the first and the last lines, the first and the last complaints."""

    def __init__(self) -> None:
        self.head: list[str] = []
        self.tail: deque[str] = deque(maxlen=60)
        self.complaints: list[str] = []

    def read(self, pipe: IO[bytes]) -> None:
        """Read to the end; a line ends with a carriage return, too."""
        with io.TextIOWrapper(pipe, "utf-8", "replace") as text:
            while line := text.readline(4096):
                self._take(_DESCRIPTOR.sub("input", _ADDRESS.sub("", line)).strip())

    def _take(self, line: str) -> None:
        if not line:
            return
        (self.head if len(self.head) < 60 else self.tail).append(line)
        if _COMPLAINT.search(line):
            line = _COMPLAINT.sub(" ", line).strip()
            if line not in self.complaints and not _REPETITION.match(line):
                if len(self.complaints) == 4:
                    del self.complaints[2]
                self.complaints.append(line)
