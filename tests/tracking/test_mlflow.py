"""MLflow's client: nobody else hears of a run, and its errors are called what they are."""

import base64
import os
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from mlflow import MlflowClient

from tests.support import offline
from tests.support.project import ROOT, TINY, train_command, v4d, write_config
from tests.tracking.test_tracking import Server
from v4d import config as configs
from v4d.tracking.journal import explained
from v4d.tracking.mlflow import MlflowBackend, mlflow_client

CREATE = """
import sys
from v4d.tracking.mlflow import mlflow_client
client = mlflow_client("sqlite:///mlflow.db")
client.create_run(client.create_experiment(sys.argv[1]))
"""


def cut_off(words: list[str], folder: Path, **variables: str) -> list[str]:
    """Run a program without a network; what it asked of the network."""
    hook = folder / "hook"
    offline.install(hook)
    env = {name: value for name, value in os.environ.items() if name not in offline.UNDER_TEST}
    env |= {"PYTHONPATH": f"{hook}:{ROOT}"} | variables
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert offline.programs(hook)
    return offline.attempts(hook)


@pytest.mark.slow
def test_a_training_with_all_that_is_tracked_tells_nobody(tiny, mlflow_database):
    shutil.copy(mlflow_database, tiny)
    tracked = {"backend": "mlflow", "log_model": True, "system_metrics": True}
    write_config(tiny, configs.merge(TINY, {"tracking": tracked, "training": {"epochs": 1}}))
    assert cut_off(train_command(1), tiny) == []
    assert (tiny / "results/tiny/v4d/mlflow_run.json").exists()


def test_mlflow_tells_its_makers_only_where_the_user_wants_it(tmp_path, mlflow_database):
    shutil.copy(mlflow_database, tmp_path)
    assert cut_off([sys.executable, "-c", CREATE, "first"], tmp_path) == []
    told = cut_off([sys.executable, "-c", CREATE, "second"], tmp_path, MLFLOW_DISABLE_TELEMETRY="false")
    assert any("mlflow" in attempt for attempt in told)


# Who is let in


class Guard(BaseHTTPRequestHandler):
    """Passes on what comes with the right user and password."""

    behind = ""
    login = f"Basic {base64.b64encode(b'me:se@cret').decode()}"
    refused: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != self.login:
            self.refused.append(self.path)
            self.send_error(401)
            return
        asked = urllib.request.Request(self.behind + self.path, body or None, method=self.command)
        asked.add_header("Content-Type", self.headers.get("Content-Type", "application/json"))
        try:
            with urllib.request.urlopen(asked) as answer:
                status, content = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, content = error.code, error.read()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def tracking_server(tmp_path, mlflow_database) -> Iterator[Server]:
    (tmp_path / "server").mkdir()
    shutil.copy(mlflow_database, tmp_path / "server/server.db")
    found = Server(tmp_path / "server")
    yield found
    found.kill()


@pytest.mark.slow
def test_a_server_s_password_is_sent_to_it_and_stands_nowhere_else(tiny, tracking_server):
    tracking_server.start()
    Guard.behind = tracking_server.uri
    Guard.refused.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Guard) as guard:
        threading.Thread(target=guard.serve_forever, daemon=True).start()
        uri = f"http://me:se%40cret@127.0.0.1:{guard.server_port}"
        tracked = {"backend": "mlflow", "uri": uri, "log_model": False, "system_metrics": False}
        document = configs.merge(TINY, {"tracking": tracked, "training": {"epochs": 1}})
        given = write_config(tiny, document)
        done = v4d("train", "--config", given, "--model", "v4d", "--nproc", "1", cwd=tiny)
        synced = v4d("tracking-sync", "--config", given, cwd=tiny)
        given.unlink()  # the user's own
        shown = v4d("compare", "--uri", uri, "--experiment", "v4d/tiny", cwd=tiny, check=False)
        guard.shutdown()
    assert Guard.refused == []
    (run,) = MlflowClient(tracking_server.uri).search_runs(["1"])
    assert "val/top1" in run.data.metrics and run.data.params
    assert "nothing was waiting" in synced.stdout and "none of the 1 runs was tested" in shown.stderr
    files = [path for path in tiny.rglob("*") if path.is_file()]
    assert tiny / "results/tiny/config.yaml" in files
    printed = "".join(each.stdout + each.stderr for each in (done, synced, shown))
    assert "cret" not in printed
    assert [path for path in files if b"cret" in path.read_bytes()] == []


# What an error is called


CODES = {400: "INVALID_PARAMETER_VALUE", 404: "RESOURCE_DOES_NOT_EXIST", 500: "INTERNAL_ERROR"}


class Answers(BaseHTTPRequestHandler):
    """A server of which the first part of the path says what it answers: a status, or nothing for a while."""

    silence = threading.Event()

    def do_GET(self) -> None:
        what = self.path.split("/")[1]
        if what == "silence":
            self.silence.wait(60)
            return
        self.send_response(int(what))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        if int(what) in CODES:
            self.wfile.write(b'{"error_code": "%s", "message": "not like this"}' % CODES[int(what)].encode())

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Answers.silence.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as answering:
        threading.Thread(target=answering.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{answering.server_port}"
        Answers.silence.set()
        answering.shutdown()


def called(error: Exception) -> str:
    return explained(MlflowBackend("http://server", "e"), error)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/500", "does not answer ("),
        ("/503", "does not answer ("),
        ("/silence", "does not answer ("),
        ("/400", "its client failed (RestException: INVALID_PARAMETER_VALUE: not like this)"),
        ("/404", "its client failed (RestException: RESOURCE_DOES_NOT_EXIST: not like this)"),
    ],
)
def test_a_server_s_refusal_is_an_answer(server, monkeypatch, path, words):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(Exception) as raised:
        mlflow_client(server + path).get_run("r")
    assert words in called(raised.value)


def test_where_nobody_listens_nobody_answers(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(Exception) as raised:
        mlflow_client("http://127.0.0.1:9").get_run("r")
    assert "does not answer (" in called(raised.value)


@pytest.mark.parametrize(
    "error", [KeyError("_MLFLOW_TELEMETRY_SESSION_ID"), PermissionError(13, "no"), ValueError()]
)
def test_a_mistake_of_the_client_s_own_is_none_of_the_server_s(error):
    assert f"its client failed ({type(error).__name__}: " in called(error)
