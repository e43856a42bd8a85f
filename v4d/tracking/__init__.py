"""Metrics and artifacts to a tracker, which never stops training: a journal first, the tracker behind it."""

import importlib.util
import sys

from v4d.config import Config, TrackingConfig
from v4d.config.registry import BACKENDS
from v4d.errors import V4DError
from v4d.tracking.base import Backend, Tracker
from v4d.tracking.journal import JOURNAL, JournalTracker, Pusher, explained, forget_stages
from v4d.tracking.mlflow import MlflowBackend, mlflow_client

__all__ = ["BACKENDS", "Tracker", "forget_stages", "initialise", "mlflow_client", "open_tracker", "sync"]

BACKENDS["mlflow"] = MlflowBackend


def open_tracker(config: Config, run_name: str, *, stage: str = "") -> Tracker:
    """A tracker for one run, a new one or, where the config's results name one, the same as before.

    `stage` is noted with every entry; see `forget_stages`.
    """
    backend = _backend(config.tracking)
    if backend is None:
        return Tracker()
    return JournalTracker(_pusher(backend, config, run_name), stage)


def initialise(config: Config) -> None:
    """Create database and experiment before several processes want to at once (which fails for all)."""
    backend = _backend(config.tracking)
    if backend is None:
        return
    try:
        backend.create()
    except Exception as error:  # whatever a tracker raises
        print(f"tracking: {explained(backend, error)}; going on without", file=sys.stderr)


def sync(config: Config) -> list[str]:
    """Send every journal of a config that the tracker has not seen whole; the names of the runs sent.

    Raises:
        V4DError: the tracker still does not answer, or its client fails.
    """
    sent = []
    journals = [path for runs in ("*", "*/seed_*") for path in config.results.glob(f"{runs}/{JOURNAL}")]
    for journal in sorted(journals):
        backend = _backend(config.tracking)
        if backend is None:
            break
        run = journal.parent.relative_to(config.results).as_posix()  # v4d, v4d/seed_1
        pusher = _pusher(backend, config, run)
        if pusher.pending():
            pusher.push()
            sent.append(pusher.run_name)
        if pusher.pending():
            raise V4DError(f"{pusher.problem}; {journal} is kept")
    return sent


def _pusher(backend: Backend, config: Config, run: str) -> Pusher:
    return Pusher(backend, config.tracking.experiment or "", run, config.paths.run_state(run))


def _backend(settings: TrackingConfig) -> Backend | None:
    """The configured backend; None where nothing is to be tracked, or its package is missing."""
    if settings.backend == "none":
        return None
    if settings.backend == "mlflow" and importlib.util.find_spec("mlflow") is None:
        print("tracking: mlflow is not installed; nothing is tracked", file=sys.stderr)
        return None
    backend: Backend = BACKENDS[settings.backend](settings.uri, settings.experiment or "")
    return backend
