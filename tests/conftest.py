"""Fixtures and hooks for tests of several rooms; the helpers are in tests/support/."""

import os
import resource
import shutil
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.support.isolation import kept_state
from tests.support.project import make_tiny_data
from tests.support.shared import made_once

# Two cores at most: the libraries' own threads would fight with the tests' processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")


SLOW = 1.5
"""Seconds of CPU, children included, from which on a test is to be marked slow."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that have the most slow tests: one begun last would keep a single core busy."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Note what a test has computed; its fixtures, which others may share, do not count."""
    before = cpu_seconds()
    try:
        return (yield)
    finally:
        item.user_properties.append(("cpu", cpu_seconds() - before))


def cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which marks `slow` are missing or out of date. No test fails of it: it depends on the machine."""
    for report in terminalreporter.getreports("passed"):
        cpu = dict(report.user_properties).get("cpu", 0.0)
        marked = "slow" in report.keywords or "long" in report.keywords
        if report.when == "call" and ((cpu > SLOW and not marked) or (cpu < SLOW / 5 and marked)):
            advice = "need no longer be" if marked else "should be"
            terminalreporter.write_line(f"{report.nodeid}: {cpu:.1f} s of CPU; {advice} marked slow")


@pytest.fixture(autouse=True)
def process_state() -> Iterator[None]:
    """A test that runs a command in this process leaves the process as it was."""
    with kept_state():
        yield


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `config.yaml` and a finished data set of 20 + 10 synthetic videos in 3 parts."""
    return made_once(tmp_path_factory, "tiny", make_tiny_data)


@pytest.fixture
def tiny(tiny_data: Path, tmp_path: Path) -> Path:
    """A copy of it to train in."""
    folder = tmp_path / "project"
    shutil.copytree(tiny_data, folder)
    return folder


@pytest.fixture(scope="session")
def tested_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small data set and three models that were tested on it; to be copied."""
    from tests.support import tested_project  # it imports torch, which most tests do without

    return made_once(tmp_path_factory, "tested", tested_project.make)


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with MLflow's tables and no runs; to be copied, since making one takes seconds."""

    def make(folder: Path) -> None:
        from mlflow import MlflowClient

        MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()

    return made_once(tmp_path_factory, "mlflow", make) / "mlflow.db"
