"""The ranks of a job on one machine: started, watched and ended.

They meet in a file without a name that only they have open (dist.FileStore on a memfd): there is no server
that somebody else could talk to, and nothing to remove when the job has ended. What gloo and NCCL listen on
is the loopback device.
"""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from v4d.distributed.job import ENDING, PASSED_ON, POLL_SECONDS, STORE, Ended, Interrupted

GRACE_SECONDS = 30.0
"""What a rank may take to end after it was told to, when the others have ended."""


def run(command: Sequence[str], processes: int) -> Ended:
    """Run `python command` as so many ranks until all have ended; when one fails, the others are ended.

    Raises:
        Interrupted: a signal of ENDING came.
    """
    return _Job(command, processes).run()


class _Job:
    def __init__(self, command: Sequence[str], processes: int):
        self.command, self.size = command, processes
        self.ranks: list[subprocess.Popen[bytes]] = []
        self.passed_on: set[int] = set()
        self.interruptions = 0

    def run(self) -> Ended:
        self._listen_to_signals()
        store = os.memfd_create("v4d-store", os.MFD_CLOEXEC)
        try:
            self._start(store)
            return self._wait()
        finally:
            self._end()
            os.close(store)

    def _start(self, store: int) -> None:
        shared = {
            "WORLD_SIZE": str(self.size),
            "LOCAL_WORLD_SIZE": str(self.size),
            STORE: f"/dev/fd/{store}",
            "GLOO_SOCKET_IFNAME": "lo",
            "NCCL_SOCKET_IFNAME": "=lo",
            # A rank whose peer is gone ends, rather than wait for it.
            "TORCH_NCCL_ASYNC_ERROR_HANDLING": os.environ.get("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1"),
        }
        for rank in range(self.size):
            started = subprocess.Popen(
                [sys.executable, *self.command],
                env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                pass_fds=[store],
                start_new_session=True,  # Ctrl-C on the terminal reaches this process alone
            )
            self.ranks.append(started)
        for passed_on in tuple(self.passed_on):  # meanwhile, to those that had been started
            self._tell(passed_on)

    def _wait(self) -> Ended:
        while True:
            codes = [rank.poll() for rank in self.ranks]
            # A rank that was killed is why others fail, in the same moment.
            failed = sorted((code > 0, rank, code) for rank, code in enumerate(codes) if code)
            if self.interruptions:
                with suppress(OSError):
                    print("stops as soon as it can; Ctrl-C again: at once", file=sys.stderr, flush=True)
                raise Interrupted
            if failed:
                _, rank, code = failed[0]
                return Ended(rank, code, frozenset(self.passed_on))
            if None not in codes:
                return Ended()
            time.sleep(POLL_SECONDS)

    def _end(self) -> None:
        """Tell the ranks that still run to end, and kill those that do not, or all after a second Ctrl-C.

        After a first one they have the time that they need to save, as after SIGTERM.
        """
        self._tell(signal.SIGTERM)
        grace, interruptions = math.inf if self.interruptions else GRACE_SECONDS, self.interruptions
        deadline = time.monotonic() + grace
        while any(rank.poll() is None for rank in self.ranks):
            if time.monotonic() > deadline or self.interruptions > interruptions:
                self._tell(signal.SIGKILL)
            time.sleep(POLL_SECONDS / 10)

    def _tell(self, number: int) -> None:
        for rank in self.ranks:
            with suppress(ProcessLookupError):
                rank.send_signal(number)

    def _listen_to_signals(self) -> None:
        def pass_on(number: int, frame: Any) -> None:
            self.passed_on.add(number)
            self._tell(number)

        def interrupt(number: int, frame: Any) -> None:
            self.interruptions += 1

        for number in PASSED_ON:
            signal.signal(number, pass_on)
        for number in ENDING:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                signal.signal(number, interrupt)
