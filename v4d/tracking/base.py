"""What training and testing may say of a run, and what a place for runs has to offer."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

Entry = dict[str, Any]
"""A line of the journal: `kind` (metric, param, tag, artifact, dataset, model, status), `stage`, and more."""


class Tracker:
    """The no-op tracker, and the interface: what training and testing may say."""

    @property
    def run_id(self) -> str | None:
        """The run's id in the tracker; None before there is one."""
        return None

    def log_params(self, params: dict[str, Any]) -> None:
        """Settings of the run, once each; a value is cut at 6,000 characters, MLflow's limit."""
        self._write({"kind": "param", "key": k, "value": str(v)[:6000]} for k, v in params.items())

    def set_tags(self, tags: dict[str, Any]) -> None:
        """What the run can be found by."""
        self._write({"kind": "tag", "key": key, "value": str(value)} for key, value in tags.items())

    def log_metrics(self, metrics: dict[str, float], step: int, *, once: bool = False) -> None:
        """Numbers at a step (epoch or optimiser step); `once` leaves out points that the run has already."""
        now = int(time.time() * 1000)
        self._write(
            {"kind": "metric", "key": key, "value": float(value), "step": step, "time": now}
            for key, value in metrics.items()
        )

    def log_artifact(self, path: str | Path, folder: str = "") -> None:
        """A file that exists until the tracker is closed."""
        self._write([{"kind": "artifact", "path": str(path), "folder": folder}])

    def log_dataset(self, info: dict[str, Any]) -> None:
        """The data set (the content of dataset.json) as an input of the run."""
        self._write([{"kind": "dataset", "info": info}])

    def log_model(self, path: str | Path) -> None:
        """A finished model file as a model that `mlflow.pytorch.load_model` opens."""
        self._write([{"kind": "model", "path": str(path)}])

    def start_system_metrics(self) -> None:
        """Record CPU, memory and GPU use until `close`."""

    def close(self, status: str = "FINISHED") -> None:
        """Send what is left. `status`: FINISHED, FAILED, KILLED, or RUNNING where a later stage goes on."""

    def _write(self, entries: Iterable[Entry]) -> None:
        """Where entries go; nowhere."""

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        self.close("RUNNING" if kind is None else getattr(kind, "run_status", "FAILED"))


class Backend(Protocol):
    """A place where runs are kept. A journal stands in front of it, so that it may be slow or away."""

    uri: str

    def create(self) -> None:
        """Make what runs need, once, before several processes want to."""

    def open(self, run_id: str | None, run_name: str) -> str:
        """Create a run, or open the one with this id again; the run's id. Any exception: later."""

    def send(self, run_id: str, entries: list[Entry]) -> int:
        """Send entries from the front of the list in one call; how many went. Any exception: later."""

    def monitor(self, run_id: str) -> Any:
        """Start to record CPU, memory and GPU use; has `finish()`. None where that is not offered."""

    def is_away(self, error: Exception) -> bool:
        """Whether an exception says that the place does not answer, rather than that a client failed."""
