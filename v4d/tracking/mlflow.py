"""MLflow as the place for runs. It is imported when a run is opened: that takes seconds."""

import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from v4d.tracking.base import Entry
from v4d.utils.addresses import user_and_password, whole

BATCH = 500
"""Metrics in a call; 2,000 a second and more, where single calls make 21."""


class MlflowBackend:
    """Runs in an experiment of an MLflow server or database."""

    def __init__(self, uri: str, experiment: str):
        self.uri, self.experiment = uri, experiment
        self._client: Any = None

    def create(self) -> None:
        """Make database and experiment."""
        self._experiment_id(mlflow_client(self.uri))

    def open(self, run_id: str | None, run_name: str) -> str:
        """Create a run, or set the one with this id running again."""
        client = mlflow_client(self.uri)
        if run_id is not None:
            client.update_run(run_id, status="RUNNING")
        else:
            run_id = str(client.create_run(self._experiment_id(client), run_name=run_name).info.run_id)
        self._client = client
        return run_id

    def _experiment_id(self, client: Any) -> str:
        """The experiment's id; it is made where there is none."""
        experiment = client.get_experiment_by_name(self.experiment)
        return str(experiment.experiment_id if experiment else client.create_experiment(self.experiment))

    def send(self, run_id: str, entries: list[Entry]) -> int:
        """Send the run of simple entries at the front in one call, or one large entry."""
        from mlflow.entities import Metric, Param, RunTag

        makers = {
            "metric": lambda e: Metric(e["key"], e["value"], e["time"], e["step"]),
            "param": lambda e: Param(e["key"], e["value"]),
            "tag": lambda e: RunTag(e["key"], e["value"]),
        }
        simple: dict[str, list[Any]] = {kind: [] for kind in makers}
        for entry in entries:
            kind = entry["kind"]
            if kind not in makers or len(simple[kind]) == (BATCH if kind == "metric" else 90):
                break
            simple[kind].append(makers[kind](entry))
        if any(simple.values()):
            self._client.log_batch(run_id, simple["metric"], simple["param"], simple["tag"])
        else:
            self._send_large(run_id, entries[0])
        return sum(map(len, simple.values())) or 1

    def _send_large(self, run_id: str, entry: Entry) -> None:
        kind = entry["kind"]
        if "path" in entry and not Path(entry["path"]).exists():
            return
        if kind == "artifact":
            self._client.log_artifact(run_id, entry["path"], entry["folder"] or None)
        elif kind == "dataset":
            self._client.log_inputs(run_id, datasets=[_dataset_input(entry["info"])])
        elif kind == "model":
            _log_model(self.uri, run_id, Path(entry["path"]))
        elif kind == "status":
            self._client.set_terminated(run_id, entry["value"])

    def monitor(self, run_id: str) -> Any:
        """MLflow's own thread for system metrics."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=_address(self.uri))
        monitor.start()
        return monitor

    def is_away(self, error: Exception) -> bool:
        """A connection that fails, a timeout, or a server's own error (5xx); also one behind the error.

        MLflow raises its own exception over that of `requests`, and gives it the status 500.
        """
        import requests
        import urllib3
        from mlflow.exceptions import MlflowException

        lost = (ConnectionError, TimeoutError, requests.ConnectionError, requests.Timeout)
        return any(
            isinstance(cause, (*lost, urllib3.exceptions.HTTPError))
            or (isinstance(cause, MlflowException) and cause.get_http_status_code() >= 500)
            for cause in _chain(error)
        )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def mlflow_client(uri: str) -> Any:
    """A client that gives up on a silent server after seconds, not minutes."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # MLflow tells its makers of every run, unless it is told not to. That may make the creation of a run
    # fail: a thread of its client removes an environment variable that the client reads (3.17, a KeyError).
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    # Forty lines about the tables of a fresh database, and hints about columns of a table of counts.
    for name in ("alembic", "mlflow.store.db.utils", "mlflow.system_metrics.system_metrics_monitor"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"mlflow\.|torch\.export")
    return MlflowClient(tracking_uri=_address(uri))


def _address(uri: str) -> str:
    """The address to give to MLflow, which prints a server's in every run's last words.

    It takes a server's user and password from the environment, and a database's from the address only.
    """
    if not uri.startswith(("http://", "https://")):
        return whole(uri)
    user, password = user_and_password(uri)
    if user and not password:  # it would not take that from there
        os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
        return whole(uri)
    if user and not os.environ.get("MLFLOW_TRACKING_USERNAME"):
        os.environ |= {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}
    return uri


def _dataset_input(info: dict[str, Any]) -> Any:
    import pandas
    from mlflow.data.pandas_dataset import from_pandas
    from mlflow.entities import DatasetInput, InputTag

    counts = [{"split": split, **numbers} for split, numbers in info["counts"].items()]
    dataset = from_pandas(
        pandas.DataFrame(counts).fillna(0),
        source=f"data/{info['name']}/manifest.parquet",
        name=info["name"],
        digest=info["fingerprint"][:32],
    )
    return DatasetInput(dataset._to_mlflow_entity(), [InputTag("mlflow.data.context", "training")])


def _log_model(uri: str, run_id: str, path: Path) -> None:
    """Log through the fluent interface, the only one that writes MLflow's model format.

    MLflow exports the network (torch.export), so that loading it runs no code; units, frames and the size of
    frames are those of training, the number of videos is free.
    """
    import mlflow
    import torch

    from v4d.models.checkpoint import load_model

    saved = load_model(path)
    size = saved.info["stage"]["training"]["crop"]["size"]
    channels = saved.model.input.channels
    example = torch.zeros(2, saved.units, channels, saved.frames, size, size)
    with torch.inference_mode():
        signature = mlflow.models.infer_signature(example.numpy(), saved.model(example).numpy())
    mlflow.set_tracking_uri(_address(uri))
    with mlflow.start_run(run_id=run_id, log_system_metrics=False):
        mlflow.pytorch.log_model(
            saved.model,
            name="model",
            input_example=example.numpy(),
            signature=signature,
            pip_requirements=["torch", "torchvision", "v4d"],
        )
