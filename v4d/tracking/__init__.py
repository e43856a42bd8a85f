"""Metrics and artifacts to MLflow, which never stops training.

Everything goes to a journal beside the results first (JSON lines, one entry a line) and from there
to the server in the background, in batches. A server that is down costs a warning; what it missed
is replayed as soon as it answers, by the next stage of the model, or by `v4d tracking-sync`.

    results/<name>/<model>/tracking.jsonl     the journal
    results/<name>/<model>/mlflow_run.json    the run's id, and how many bytes of the journal MLflow has

Of training's curves, a point that the journal holds already is not written again: a training that was
killed and goes on from its last checkpoint repeats some steps, and must not show them twice. What was
pushed twice because a kill came between push and note keeps its time stamp, and MLflow stores an
identical point once.
"""

import contextlib
import json
import logging
import os
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

from v4d.config import Config, TrackingConfig
from v4d.errors import V4DError
from v4d.utils.files import read_json, write_json, write_text

JOURNAL = "tracking.jsonl"
PUSH_SECONDS = 2.0
BATCH = 500
"""Metrics in a call; 2,000 a second and more, where single calls make 21."""
PATIENCE_SECONDS = 600.0
"""How long `close` waits for a slow upload; for a server that does not answer it does not wait."""


class Tracker:
    """The no-op tracker, and the interface: what training and testing may say."""

    run_id: str | None = None

    def log_params(self, params: dict[str, Any]) -> None:
        """Settings of the run, once each."""

    def set_tags(self, tags: dict[str, Any]) -> None:
        """What the run can be found by."""

    def log_metrics(self, metrics: dict[str, float], step: int, *, once: bool = False) -> None:
        """Numbers at a step (epoch or optimiser step); `once` leaves out points that the run has already."""

    def log_artifact(self, path: str | Path, folder: str = "") -> None:
        """A file that exists until the tracker is closed."""

    def log_dataset(self, info: dict[str, Any]) -> None:
        """The data set (the content of dataset.json) as an input of the run."""

    def log_model(self, path: str | Path) -> None:
        """A finished model file as a model that `mlflow.pytorch.load_model` opens."""

    def start_system_metrics(self) -> None:
        """Record CPU, memory and GPU use until `close`."""

    def close(self, status: str = "FINISHED") -> None:
        """Send what is left. `status`: FINISHED, FAILED, KILLED, or RUNNING where a later stage goes on."""

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        self.close("RUNNING" if kind is None else getattr(kind, "run_status", "FAILED"))


def open_tracker(config: Config, run_name: str, *, state_file: Path, stage: str = "") -> Tracker:
    """A tracker for one run, a new one or, where `state_file` names one, the same as before.

    `stage` is noted with every entry; see `forget_stages`.
    """
    if config.tracking.backend == "none":
        return Tracker()
    try:
        import mlflow  # noqa: F401
    except ImportError:
        print("tracking: mlflow is not installed; nothing is tracked", file=sys.stderr)
        return Tracker()
    return MlflowTracker(config.tracking, run_name, state_file, stage)


def forget_stages(state_file: Path, keep: set[str], aside: Path) -> None:
    """Have the next tracker begin a new run that knows of the stages in `keep` only.

    For a stage that is trained anew with other settings: a run shows one training, not two on top of each
    other. The old journal and the old run's id move to the folder `aside`; the old run stays in MLflow.
    """
    journal = state_file.with_name(JOURNAL)
    entries = _read_journal(journal)
    kept = [entry for entry in entries if entry.get("stage") in keep]
    if entries and len(kept) == len(entries):
        return
    for path in (journal, state_file):
        if path.exists() and not (aside / path.name).exists():
            write_text(aside / path.name, path.read_text(encoding="utf-8"))
    # Killed before the last line, it is all done again.
    state_file.unlink(missing_ok=True)
    if entries:
        write_text(journal, "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in kept))


class MlflowTracker(Tracker):
    """Writes the journal, and pushes it from a thread of its own."""

    def __init__(self, settings: TrackingConfig, run_name: str, state_file: Path, stage: str):
        self.stage = stage
        self.pusher = Pusher(settings, run_name, Path(state_file))
        self.journal_file = self.pusher.journal_file
        _mend(self.journal_file)
        self._known = {
            (entry["key"], entry["step"])
            for entry in _read_journal(self.journal_file)
            if entry["kind"] == "metric"
        }
        self._journal = self.journal_file.open("a", encoding="utf-8")
        self._monitor: Any = None
        self._closing = threading.Event()
        self.pusher.warm_up()  # imports of several seconds do not belong beside the first training step
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
        self._thread.start()

    @property
    def run_id(self) -> str | None:
        return self.pusher.run_id

    def log_params(self, params: dict[str, Any]) -> None:
        self._write({"kind": "param", "key": k, "value": str(v)[:6000]} for k, v in params.items())

    def set_tags(self, tags: dict[str, Any]) -> None:
        self._write({"kind": "tag", "key": key, "value": str(value)} for key, value in tags.items())

    def log_metrics(self, metrics: dict[str, float], step: int, *, once: bool = False) -> None:
        now = int(time.time() * 1000)
        fresh = {k: v for k, v in metrics.items() if not once or (k, step) not in self._known}
        self._known |= {(key, step) for key in fresh}
        self._write(
            {"kind": "metric", "key": key, "value": float(value), "step": step, "time": now}
            for key, value in fresh.items()
        )

    def log_artifact(self, path: str | Path, folder: str = "") -> None:
        self._write([{"kind": "artifact", "path": str(path), "folder": folder}])

    def log_dataset(self, info: dict[str, Any]) -> None:
        self._write([{"kind": "dataset", "info": info}])

    def log_model(self, path: str | Path) -> None:
        self._write([{"kind": "model", "path": str(path)}])

    def start_system_metrics(self) -> None:
        """Needs the run to exist: where the server does not answer yet, there are none."""
        if self.run_id is None:
            return
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        with contextlib.suppress(Exception):  # a machine whose counters cannot be read is no reason to stop
            self._monitor = SystemMetricsMonitor(
                self.run_id, resume_logging=True, tracking_uri=self.pusher.uri
            )
            self._monitor.start()

    def close(self, status: str = "FINISHED") -> None:
        if self._closing.is_set():
            return
        if self._monitor is not None:
            self._monitor.finish()
        if status != "RUNNING":
            self._write([{"kind": "status", "value": status}])
        self._closing.set()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._thread.is_alive() and time.monotonic() < deadline:
            self._thread.join(0.1)
        self._journal.close()
        if not self._thread.is_alive() and not self.pusher.pending():
            return
        print(
            f"tracking: {self.pusher.uri} did not take everything; `v4d tracking-sync` sends the rest",
            file=sys.stderr,
        )

    def _write(self, entries: Any) -> None:
        """Append whole lines in one call, so that a kill leaves at most the last line torn."""
        entries = ({"stage": self.stage, **entry} for entry in entries)
        lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
        if lines:
            self._journal.write(lines)
            self._journal.flush()

    def _run(self) -> None:
        while not self._closing.wait(PUSH_SECONDS):
            self.pusher.push()
        self.pusher.push()


class Pusher:
    """Moves journal entries to MLflow and remembers how far it is."""

    def __init__(self, settings: TrackingConfig, run_name: str, state_file: Path):
        self.settings, self.uri, self.run_name, self.state_file = settings, settings.uri, run_name, state_file
        self.journal_file = state_file.with_name(JOURNAL)
        self.journal_file.parent.mkdir(parents=True, exist_ok=True)
        state = read_json(state_file) if state_file.exists() else {}
        if state.get("uri", self.uri) != self.uri:  # another server knows nothing of the old run
            state = {}
        self.run_id: str | None = state.get("run_id")
        self.offset: int = state.get("journal_bytes", 0)
        self._client: Any = None
        self._warned = False
        self._next_try = 0.0
        self._wait = PUSH_SECONDS

    def warm_up(self) -> None:
        """Import MLflow and open the run; a server that is down is tried again later."""
        with self._tolerant():
            self._open_run()

    def pending(self) -> bool:
        """Whether there is a whole line more. A torn one is one that is being written, or a kill left it."""
        if not self.journal_file.exists():
            return False
        with self.journal_file.open("rb") as journal:
            journal.seek(self.offset)
            return journal.readline().endswith(b"\n")

    def push(self) -> None:
        """Send everything that the journal holds; a failure is a warning, once, and a later try."""
        if not self.pending() or time.monotonic() < self._next_try:
            return
        with self._tolerant():
            self._open_run()
            while self._push_batch():
                pass

    def _push_batch(self) -> bool:
        with self.journal_file.open("rb") as journal:
            journal.seek(self.offset)
            lines = journal.readlines(1 << 20)
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()  # still being written
        if not lines:
            return False
        entries = [json.loads(line) for line in lines]
        while entries:
            count = self._send(entries)
            self.offset += sum(map(len, lines[:count]))
            self._remember()
            entries, lines = entries[count:], lines[count:]
        return True

    def _send(self, entries: list[dict[str, Any]]) -> int:
        """Send the run of simple entries at the front in one call, or one large entry; return how many."""
        from mlflow.entities import Metric, Param, RunTag

        makers = {
            "metric": lambda e: Metric(e["key"], e["value"], e["time"], e["step"]),
            "param": lambda e: Param(e["key"], e["value"]),
            "tag": lambda e: RunTag(e["key"], e["value"]),
        }
        count = 0
        simple: dict[str, list[Any]] = {kind: [] for kind in makers}
        for entry in entries:
            kind = entry["kind"]
            if kind not in makers or len(simple[kind]) == (BATCH if kind == "metric" else 90):
                break
            simple[kind].append(makers[kind](entry))
            count += 1
        if count:
            self._client.log_batch(self.run_id, simple["metric"], simple["param"], simple["tag"])
            return count
        self._send_large(entries[0])
        return 1

    def _send_large(self, entry: dict[str, Any]) -> None:
        kind = entry["kind"]
        if kind == "artifact":
            if Path(entry["path"]).exists():
                self._client.log_artifact(self.run_id, entry["path"], entry["folder"] or None)
        elif kind == "dataset":
            self._client.log_inputs(self.run_id, datasets=[_dataset_input(entry["info"])])
        elif kind == "model":
            if Path(entry["path"]).exists():
                _log_model(self.uri, self.run_id, Path(entry["path"]))
        elif kind == "status":
            self._client.set_terminated(self.run_id, entry["value"])

    def _open_run(self) -> None:
        """Create the run, or open the one that `state_file` names."""
        if self._client is not None and self.run_id is not None:
            return
        client = mlflow_client(self.uri)
        if self.run_id is not None:
            client.update_run(self.run_id, status="RUNNING")
        else:
            name = self.settings.experiment
            experiment = client.get_experiment_by_name(name)
            experiment_id = experiment.experiment_id if experiment else client.create_experiment(name)
            self.run_id = client.create_run(experiment_id, run_name=self.run_name).info.run_id
            self.offset = 0
        self._client = client
        self._remember()

    def _remember(self) -> None:
        state = {"run_id": self.run_id, "uri": self.uri, "experiment": self.settings.experiment}
        write_json(self.state_file, state | {"run_name": self.run_name, "journal_bytes": self.offset})

    @contextlib.contextmanager
    def _tolerant(self) -> Any:
        try:
            yield
            self._wait = PUSH_SECONDS
        except Exception as error:
            if not self._warned:
                why = str(error).strip().split("\n")[0][:200]
                print(f"tracking: {self.uri} does not answer ({why}); training goes on", file=sys.stderr)
            self._warned = True
            self._wait = min(2 * self._wait, 60.0)
            self._next_try = time.monotonic() + self._wait


def mlflow_client(uri: str) -> Any:
    """A client that gives up on a silent server after seconds, not minutes."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow import MlflowClient

    # Forty lines about the tables of a fresh database, and hints about columns of a table of counts.
    for name in ("alembic", "mlflow.store.db.utils", "mlflow.system_metrics.system_metrics_monitor"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"mlflow\.|torch\.export")
    return MlflowClient(tracking_uri=uri)


def initialise(config: Config) -> None:
    """Create database and experiment before several processes want to at once (which fails for all)."""
    if config.tracking.backend == "none":
        return
    try:
        client = mlflow_client(config.tracking.uri)
    except ImportError:
        return
    try:
        if client.get_experiment_by_name(config.tracking.experiment) is None:
            client.create_experiment(config.tracking.experiment)
    except Exception as error:
        why = str(error).strip().split("\n")[0][:200]
        print(f"tracking: {config.tracking.uri} does not answer ({why}); going on without", file=sys.stderr)


def sync(config: Config) -> list[str]:
    """Send every journal of a config that MLflow has not seen whole; the names of the runs sent.

    Raises:
        V4DError: the server still does not answer.
    """
    sent = []
    for journal in sorted(config.results.glob(f"*/{JOURNAL}")):
        state_file = journal.with_name("mlflow_run.json")
        pusher = Pusher(config.tracking, journal.parent.name, state_file)
        if not pusher.pending():
            continue
        pusher.push()
        if pusher.pending():
            raise V4DError(f"{config.tracking.uri} does not answer; {journal} is kept")
        sent.append(journal.parent.name)
    return sent


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
    mlflow.set_tracking_uri(uri)
    with mlflow.start_run(run_id=run_id, log_system_metrics=False):
        mlflow.pytorch.log_model(
            saved.model,
            name="model",
            input_example=example.numpy(),
            signature=signature,
            pip_requirements=["torch", "torchvision", "v4d"],
        )


def _read_journal(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    # Not splitlines(), which knows more ends of lines than JSON does.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def _mend(path: Path) -> None:
    """Cut a last line that a kill left torn."""
    if path.exists():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with path.open("r+b") as journal:
                journal.truncate(whole)
