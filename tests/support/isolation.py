"""What a command leaves behind in its process, and how the tests put it back."""

import contextlib
import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1)
"""Signals that commands handle."""


@contextlib.contextmanager
def kept_state() -> Iterator[None]:
    """Restore the working directory, environment, signal handlers, warning filters and torch's threads."""
    folder, environ = Path.cwd(), dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    launcher = logging.getLogger("torch.distributed.elastic")
    level = launcher.level
    threads = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None
    try:
        with warnings.catch_warnings():
            yield
    finally:
        os.chdir(folder)
        for name in os.environ.keys() - environ.keys():
            del os.environ[name]
        os.environ.update(environ)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        launcher.setLevel(level)
        if threads is not None:
            sys.modules["torch"].set_num_threads(threads)
