"""MLflow never stops training, and nothing is lost or doubled: with a real server, down and up again."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.support.full_disk import disk_of
from tests.support.processes import start
from tests.support.project import TINY, environment, train, write_config
from v4d import config as configs
from v4d.config import Config
from v4d.errors import V4DError
from v4d.report.tables import run_links
from v4d.tracking import Tracker, forget_stages, initialise, open_tracker, sync
from v4d.training.step import Preempted

STEPS = 40


class Server:
    """`mlflow server` on loopback, on a port and a database of its own."""

    def __init__(self, folder: Path):
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        words += ["--backend-store-uri", f"sqlite:///{self.folder}/server.db", "--workers", "1"]
        words += ["--artifacts-destination", str(self.folder / "artifacts")]
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(
                words, stdout=log, stderr=log, env=environment(), start_new_session=True
            )
        deadline = time.monotonic() + 120
        while not self._answers():
            assert self.process.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)

    def kill(self) -> None:
        import os
        import signal

        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False


@pytest.fixture
def database(tmp_path, mlflow_database) -> str:
    """The address of a database in the test's folder."""
    shutil.copy(mlflow_database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def server(tmp_path, mlflow_database):
    (tmp_path / "server").mkdir()
    shutil.copy(mlflow_database, tmp_path / "server/server.db")
    found = Server(tmp_path / "server")
    yield found
    found.kill()


def config(uri: str, backend: str = "mlflow") -> Config:
    return configs.build(configs.resolve(configs.merge(TINY, {"tracking": {"backend": backend, "uri": uri}})))


def state_file(folder: Path) -> Path:
    return folder / "results/tiny/v4d/mlflow_run.json"


def log(tracker: Tracker, steps: range) -> None:
    for step in steps:
        tracker.log_metrics({"train/loss": 1.0 / (step + 1), "train/lr": 0.1}, step, once=True)


def history(uri: str, key: str = "train/loss") -> list[int]:
    """The steps of a curve in the only run there is, as they were logged."""
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("v4d/tiny").experiment_id])
    return sorted(point.step for point in client.get_metric_history(run.info.run_id, key))


@pytest.mark.parametrize("room", [0, 30, 400])
def test_a_full_disk_costs_a_warning_and_no_entry(database, tmp_path, monkeypatch, capsys, room):
    """The journal may be torn in the middle of a line; the database cannot be written meanwhile either."""
    monkeypatch.chdir(tmp_path)
    settings = config(database)
    tracker = open_tracker(settings, "v4d")
    log(tracker, range(3))
    journal = tmp_path / "results/tiny/v4d/tracking.jsonl"
    with disk_of(journal.stat().st_size + room):
        log(tracker, range(3, 30))
        log(tracker, range(10, 35))  # as a training does that goes on from an earlier checkpoint
    said = [line for line in capsys.readouterr().err.splitlines() if "tracking.jsonl" in line]
    assert len(said) == 1
    assert said[0].endswith(
        "cannot be written (File too large); its entries are kept in memory; training goes on"
    )
    log(tracker, range(35, STEPS))
    tracker.close()
    assert "lacks" not in capsys.readouterr().err
    sync(settings)
    assert history(database) == list(range(STEPS))
    steps = [e["step"] for e in map(json.loads, journal.open()) if e.get("key") == "train/loss"]
    assert steps == list(range(STEPS))


def test_entries_that_no_disk_took_are_counted(database, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tracker = open_tracker(config(database), "v4d")
    log(tracker, range(3))
    with disk_of((tmp_path / "results/tiny/v4d/tracking.jsonl").stat().st_size + 5):
        log(tracker, range(3, 10))
        tracker.close()
    # Two of each of 7 steps, and a status.
    assert "tracking.jsonl lacks the last 15 entries" in capsys.readouterr().err


@pytest.mark.slow
def test_a_server_that_is_down_at_the_start_gets_everything_later(server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = config(server.uri)
    tracker = open_tracker(settings, "v4d")
    log(tracker, range(STEPS))
    (tmp_path / "notes.txt").write_text("n")
    tracker.log_artifact("notes.txt", "folder")
    tracker.close()
    errors = capsys.readouterr().err
    assert errors.count("does not answer") == 1 and "tracking-sync" in errors
    with pytest.raises(V4DError, match="does not answer"):
        sync(settings)
    server.start()
    assert sync(settings) == ["v4d"] and sync(settings) == []
    assert history(server.uri) == list(range(STEPS))
    client = MlflowClient(server.uri)
    run_id = json.loads(state_file(tmp_path).read_text())["run_id"]
    assert [a.path for a in client.list_artifacts(run_id, "folder")] == ["folder/notes.txt"]

    experiment = client.get_run(run_id).info.experiment_id  # and the report links to it, while it is there
    link = {"model": "v4d", "run_id": run_id, "url": f"{server.uri}/#/experiments/{experiment}/runs/{run_id}"}
    assert run_links(settings) == [link]
    state = json.loads(state_file(tmp_path).read_text())
    named = state | {"uri": server.uri.replace("//", "//me:secret@")}
    state_file(tmp_path).write_text(json.dumps(named))
    assert run_links(settings) == [link]
    state_file(tmp_path).write_text(json.dumps(state))
    server.kill()
    assert run_links(settings) == [link | {"url": ""}]


def test_a_failure_of_the_client_is_called_one_and_tried_again(tmp_path, monkeypatch, capsys, database):
    monkeypatch.chdir(tmp_path)
    create, failures = MlflowClient.create_run, iter([KeyError("_MLFLOW_TELEMETRY_SESSION_ID")])

    def fails_once(*args, **kwargs):
        for failure in failures:
            raise failure
        return create(*args, **kwargs)

    monkeypatch.setattr(MlflowClient, "create_run", fails_once)
    with open_tracker(config(database), "v4d") as tracker:
        log(tracker, range(3))
    said = capsys.readouterr().err
    assert "its client failed (KeyError: '_MLFLOW_TELEMETRY_SESSION_ID')" in said and "answer" not in said
    sync(config(database))
    assert history(database) == [0, 1, 2]


@pytest.mark.slow
def test_a_server_killed_in_the_middle_and_started_again(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("v4d.tracking.journal.PUSH_SECONDS", 0.2)
    server.start()
    tracker = open_tracker(config(server.uri), "v4d")
    for step in range(STEPS):
        log(tracker, range(step, step + 1))
        if step == 10:
            server.kill()
        if step == 25:
            server.start()
        time.sleep(0.05)
    tracker.close()
    sync(config(server.uri))
    assert history(server.uri) == history(server.uri, "train/lr") == list(range(STEPS))
    run_id = json.loads(state_file(tmp_path).read_text())["run_id"]
    assert MlflowClient(server.uri).get_run(run_id).info.status == "FINISHED"


def test_a_run_goes_on_and_repeated_steps_are_not_doubled(tmp_path, monkeypatch, database):
    monkeypatch.chdir(tmp_path)
    settings = config(database)
    for steps in (range(12), range(8, 20)):  # killed at 12, resumed from a checkpoint at 8
        with open_tracker(settings, "v4d") as tracker:
            log(tracker, steps)
    assert history(settings.tracking.uri) == list(range(20))


def test_what_was_pushed_but_not_noted_is_not_doubled(tmp_path, monkeypatch, database):
    """A kill between the push and the note of how far it was: the same points are pushed again."""
    monkeypatch.chdir(tmp_path)
    settings = config(database)
    with open_tracker(settings, "v4d") as tracker:
        log(tracker, range(10))
    state = json.loads(state_file(tmp_path).read_text())
    state_file(tmp_path).write_text(json.dumps(state | {"journal_bytes": 0}))
    journal = state_file(tmp_path).with_name("tracking.jsonl")
    with journal.open("a") as file:
        file.write('{"kind": "metric", "key": "torn')
    with open_tracker(settings, "v4d") as tracker:
        log(tracker, range(10, 15))
    assert history(settings.tracking.uri) == list(range(15))


def test_a_stage_trained_anew_begins_a_run_that_keeps_the_earlier_stages(tmp_path, monkeypatch, database):
    monkeypatch.chdir(tmp_path)
    settings = config(database)
    for stage, steps in (("one", range(5)), ("two", range(5, 9))):
        with open_tracker(settings, "v4d", stage=stage) as tracker:
            log(tracker, steps)
    first = json.loads(state_file(tmp_path).read_text())["run_id"]
    (tmp_path / "aside").mkdir()
    forget_stages(state_file(tmp_path), {"one"}, tmp_path / "aside")
    with open_tracker(settings, "v4d", stage="two") as tracker:
        log(tracker, range(5, 7))
    second = json.loads(state_file(tmp_path).read_text())["run_id"]
    client = MlflowClient(settings.tracking.uri)
    steps = {r: sorted(p.step for p in client.get_metric_history(r, "train/loss")) for r in (first, second)}
    assert first != second and steps == {first: list(range(9)), second: list(range(7))}


def test_what_forgetting_was_killed_at_is_forgotten_the_next_time(tmp_path):
    """Between any two of its writes; what lies aside stays as it was first."""
    path, aside = state_file(tmp_path), tmp_path / "aside"
    lines = [json.dumps({"stage": s, "kind": "metric", "key": "k", "step": n}) for n, s in enumerate("ab")]
    whole, kept = "\n".join(lines) + "\n", lines[0] + "\n"
    for done in range(3):
        shutil.rmtree(tmp_path / "results", ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)
        path.parent.mkdir(parents=True)
        aside.mkdir()
        journal = path.with_name("tracking.jsonl")
        journal.write_text(whole)
        if done < 2:
            path.write_text('{"run_id": "r"}')
        if done > 0:
            (aside / journal.name).write_text(whole)
            (aside / path.name).write_text('{"run_id": "r"}')
        forget_stages(path, {"a"}, aside)
        assert journal.read_text() == kept and not path.exists()
        assert (aside / journal.name).read_text() == whole
        assert json.loads((aside / path.name).read_text()) == {"run_id": "r"}
        path.write_text('{"run_id": "new"}')
        forget_stages(path, {"a"}, aside)  # nothing is there to forget: the run goes on
        assert json.loads(path.read_text()) == {"run_id": "new"}


def test_a_line_that_is_being_written_is_left_alone_by_sync(tmp_path, monkeypatch, database):
    """And one with a character that ends lines elsewhere is one line."""
    monkeypatch.chdir(tmp_path)
    settings = config(database)
    with open_tracker(settings, "v4d") as tracker:
        tracker.set_tags({"title": "one\u2028line\x85"})
    journal = state_file(tmp_path).with_name("tracking.jsonl")
    entry = '{"kind": "tag", "key": "late", "value": "whole"}\n'
    with journal.open("a") as file:
        file.write(entry[:20])
        file.flush()
        assert sync(settings) == []
        file.write(entry[20:])
    assert sync(settings) == ["v4d"]
    with open_tracker(settings, "v4d") as tracker:
        tags = MlflowClient(settings.tracking.uri).get_run(tracker.run_id).data.tags
    assert tags["late"] == "whole" and tags["title"] == "one\u2028line\x85"


@pytest.mark.parametrize(("error", "status"), [(Preempted, "KILLED"), (RuntimeError, "FAILED")])
def test_a_run_is_called_what_it_ended_as_until_it_goes_on(tmp_path, monkeypatch, database, error, status):
    monkeypatch.chdir(tmp_path)
    settings = config(database)
    client = MlflowClient(settings.tracking.uri)
    with (
        pytest.raises(error),
        open_tracker(settings, "v4d") as tracker,
    ):
        raise error
    assert client.get_run(tracker.run_id).info.status == status
    with open_tracker(settings, "v4d") as tracker:
        assert client.get_run(tracker.run_id).info.status == "RUNNING"


def test_system_metrics_go_to_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    settings = config(f"sqlite:///{tmp_path}/elsewhere.db")
    client = MlflowClient(settings.tracking.uri)
    deadline = time.monotonic() + 60
    with open_tracker(settings, "v4d") as tracker:
        tracker.start_system_metrics()
        while not any(key.startswith("system/") for key in client.get_run(tracker.run_id).data.metrics):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.slow
def test_four_processes_on_one_fresh_database(tmp_path):
    """They all fail unless one early step made it; the workflow's rule `tracking` is that step."""
    write_config(tmp_path, configs.merge(TINY, {"tracking": {"backend": "mlflow"}}))
    for names in ([None], ["m0", "m1", "m2", "m3"]):
        processes = [start(_track, tmp_path, name) for name in names]
        for process in processes:
            process.join(120)
        assert [process.exitcode for process in processes] == [0] * len(names)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("v4d/tiny").experiment_id])
    assert sorted(len(client.get_metric_history(run.info.run_id, "loss")) for run in runs) == [50] * 4


def _track(folder: Path, name: str | None) -> None:
    """Log a run of that name, or without one make the database."""
    os.chdir(folder)
    settings = configs.load("config.yaml")
    if name is None:
        initialise(settings)
        return
    with open_tracker(settings, name) as tracker:
        for step in range(50):
            tracker.log_metrics({"loss": 1.0}, step)


@pytest.mark.slow
def test_without_tracking_everything_works(tiny):
    tracker = open_tracker(config("", backend="none"), "v4d")
    log(tracker, range(3))
    tracker.close()
    assert tracker.run_id is None and not state_file(tiny).parent.exists()
    train(tiny)
    assert (tiny / "results/tiny/v4d/main/final.pt").exists() and not (tiny / "mlflow.db").exists()


WITHOUT_MLFLOW = """
import sys

sys.modules["mlflow"] = None  # as if it was not installed

from v4d import cli
from v4d.evaluation import stage
from v4d.training import worker

config, model = ["--config", "config.yaml"], ["--model", "v4d"]
assert cli.main(["tracking-init", *config, "--out", "tracking.json"]) == 0
sys.argv[1:] = [*config, *model, "--stage", "main"]
print("training", file=sys.stderr)
assert worker.main() == 0
print("trained", file=sys.stderr)
assert stage.main([*config, *model]) == 0
assert cli.main(["compare", *config]) == 0
assert cli.main(["report", *config]) == 0
"""


@pytest.mark.slow
def test_where_mlflow_is_not_installed_all_else_works(tiny):
    write_config(tiny, configs.merge(TINY, {"tracking": {"backend": "mlflow"}, "training": {"epochs": 1}}))
    words = [sys.executable, "-c", WITHOUT_MLFLOW]
    done = subprocess.run(words, cwd=tiny, env=environment(), text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    training = done.stderr.partition("training\n")[2].partition("trained\n")[0]
    assert training.count("mlflow is not installed; nothing is tracked") == 1
    assert (tiny / "results/tiny/report.html").exists() and not (tiny / "mlflow.db").exists()


@pytest.mark.slow
def test_final_weights_open_with_mlflow(tiny, monkeypatch, mlflow_database):
    import mlflow
    import torch

    shutil.copy(mlflow_database, tiny)
    tracking = {"backend": "mlflow", "log_model": True, "system_metrics": False}
    tracked = {"tracking": tracking | {"uri": f"sqlite:///{tiny}/mlflow.db"}}
    write_config(tiny, configs.merge(TINY, tracked | {"training": {"epochs": 1}}))
    train(tiny)
    mlflow.set_tracking_uri(f"sqlite:///{tiny}/mlflow.db")
    run_id = json.loads(state_file(tiny).read_text())["run_id"]

    monkeypatch.chdir(tiny)  # the artifacts lie in mlruns below the folder of the training
    model = mlflow.pytorch.load_model(f"runs:/{run_id}/model")
    from v4d.models.checkpoint import load_model

    ours = load_model(tiny / "results/tiny/v4d/main/final.pt").model
    for videos in (2, 3):
        x = torch.randn(videos, 2, 3, 2, 32, 32)
        with torch.inference_mode():
            assert torch.allclose(model(x), ours(x), atol=1e-5)
