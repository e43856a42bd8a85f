"""What a job's launcher and its ranks have agreed on."""

import signal
from dataclasses import dataclass

STORE = "V4D_STORE"
"""Tells a rank where the ranks of one machine meet: a path for dist.FileStore."""
LIFELINE = "V4D_LIFELINE"
"""Tells a rank how to watch its launcher: see v4d.utils.lifeline."""
PREEMPTED = 75
"""Exit code of a job that saved its state and wants to be started again (EX_TEMPFAIL)."""
PASSED_ON = (signal.SIGTERM, signal.SIGUSR1)
"""Signals that a launcher passes on to the ranks, which save their state and end."""
ENDING = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""Signals at which a launcher ends the ranks itself."""
POLL_SECONDS = 0.1
"""How often a launcher looks whether a rank has ended."""


class Interrupted(Exception):
    """A signal of ENDING came; the ranks have ended."""


@dataclass(frozen=True)
class Ended:
    """How a job ended: code 0, or the first rank that failed with its code (negative for a signal)."""

    rank: int = 0
    code: int = 0
    passed_on: frozenset[int] = frozenset()
    """The signals that were passed on to the ranks."""
