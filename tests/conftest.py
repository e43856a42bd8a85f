"""What tests of several rooms share: a small data set, made once by the real stages."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]

# Two cores at most: the libraries' own threads would fight with the tests' processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

TINY = {
    "name": "tiny",
    "dataset": {
        "name": "tiny",
        "source": "synthetic",
        "part_size": 12,
        "synthetic": {"videos": {"train": 20, "val": 10}, "size": 48, "rest_frames": 14},
    },
    "clips": {"size": "40x32"},
    "models": {
        "v4d": {"arch": "v4d_tiny", "units": 2, "frames": 2, "frame_stride": 3, "dropout": 0.5},
    },
    "training": {
        "epochs": 2,
        "batch_size": 4,
        "optimizer": {"lr": 0.05, "weight_decay": 0.0005},
        "schedule": {"name": "onecycle"},
        "crop": {"size": 32, "flip": 0.0},
        "log_steps": 2,
        "workers": 0,
    },
    "testing": {"units": 4, "crops": 3, "crop_size": 32},
    "tracking": {"backend": "none"},
}


LONGEST_FIRST = ("workflow", "training", "tests", "evaluation", "models", "report", "data")
"""Rooms of tests by the length of their files: one begun last would keep one core busy and the other idle."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(item.path.parent.name, len(order)))


def v4d(*words: object, cwd: Path, check: bool = True, **options) -> subprocess.CompletedProcess:
    """Run the command line as a user does."""
    done = subprocess.run(
        [sys.executable, "-m", "v4d.cli", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=environment(),
        **options,
    )
    if check and done.returncode != 0:
        raise AssertionError(f"v4d {words} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


def train_command(processes: int, *words: str) -> list[str]:
    """What starts a training of TINY's model by hand, for tests that watch or disturb it."""
    fixed = ["train", "--config", "config.yaml", "--model", "v4d", "--nproc", str(processes)]
    return [sys.executable, "-m", "v4d.cli", *fixed, *words]


def environment() -> dict[str, str]:
    """This process's, with the checkout on Python's path wherever the command is started."""
    return os.environ | {"PYTHONPATH": str(ROOT)}


def assert_one_line_error(done: subprocess.CompletedProcess, *parts: str) -> None:
    """Exit code 1, one line on stderr that names what is wrong, no traceback."""
    assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    for part in parts:
        assert part in lines[0], lines[0]


def write_config(folder: Path, document: dict, name: str = "config.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `config.yaml` and a finished data set of 20 + 10 synthetic videos in 3 parts."""
    folder = tmp_path_factory.mktemp("tiny")
    config = write_config(folder, TINY)
    v4d("annotations", "--config", config, cwd=folder)
    for split, part in (("train", "part_0"), ("train", "part_1"), ("val", "part_0")):
        where = ("--config", config, "--split", split, "--part", part)
        v4d("download", *where, cwd=folder)
        v4d("clips", *where, "--threads", 2, cwd=folder)
        v4d("frames", *where, "--threads", 2, cwd=folder)
    v4d("manifest", "--config", config, cwd=folder)
    return folder


@pytest.fixture
def tiny(tiny_data: Path, tmp_path: Path) -> Path:
    """A copy of it to train in."""
    folder = tmp_path / "project"
    shutil.copytree(tiny_data, folder)
    return folder
