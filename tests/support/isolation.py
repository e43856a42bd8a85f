"""What a command leaves behind in its process, and how the tests put it back."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1)
"""Signals that commands handle."""


@contextlib.contextmanager
def kept_state() -> Iterator[None]:
    """Restore the working directory, environment, signal handlers and torch's threads.

    Warning filters are restored by pytest. MLflow's own tracking address is forgotten, and with it databases
    of a relative address: in another directory it names another one.
    """
    folder, environ = Path.cwd(), dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    threads = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None
    try:
        yield
    finally:
        os.chdir(folder)
        if "mlflow" in sys.modules:
            sys.modules["mlflow"].set_tracking_uri(None)
        for name in os.environ.keys() - environ.keys():
            del os.environ[name]
        os.environ.update(environ)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if threads is not None:
            sys.modules["torch"].set_num_threads(threads)
        _forget_relative_databases()


def _forget_relative_databases() -> None:
    """MLflow keeps what it opened by address for as long as the process lives."""
    store = sys.modules.get("mlflow.store.tracking.sqlalchemy_store")
    service = sys.modules.get("mlflow.tracking._tracking_service.utils")
    if store is None or service is None:
        return
    engines = store.SqlAlchemyStore._engine_map
    relative = [uri for uri in engines if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////")]
    for uri in relative:
        engines.pop(uri).dispose()
    if relative:
        service._tracking_store_registry._get_store_with_resolved_uri.cache_clear()
