"""A small project of the tests: its config, its finished data set, and ways to run v4d on it."""

import contextlib
import importlib
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import yaml

from tests.support.isolation import kept_state
from v4d import cli

ROOT = Path(__file__).parents[2]

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


def run(*words: object, cwd: Path, check: bool = True) -> subprocess.CompletedProcess:
    """Run the command line in this process: no interpreter has to start and import torch."""
    return _in_this_process(lambda: cli.main([*map(str, words)]), words, cwd, check)


def run_rank(module: str, *words: str, cwd: Path, check: bool = True) -> subprocess.CompletedProcess:
    """Run in this process what `v4d train` or `v4d test` start, as the only rank."""
    main = importlib.import_module(module).main
    with mock.patch.object(sys, "argv", [module, *words]):
        return _in_this_process(main, (module, *words), cwd, check)


def train(folder: Path, stage: str = "main", check: bool = True) -> subprocess.CompletedProcess:
    """Train TINY's model in this process, by config.yaml in `folder`."""
    words = ("--config", "config.yaml", "--model", "v4d", "--stage", stage)
    return run_rank("v4d.training.worker", *words, cwd=folder, check=check)


def _in_this_process(
    main: Callable[[], int | None], words: tuple, cwd: Path, check: bool
) -> subprocess.CompletedProcess:
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with (
        kept_state(),
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            code = main()
        except SystemExit as end:  # argparse
            code = end.code
    printed, errors = (stream.buffer.getvalue().decode() for stream in (out, err))
    if check and code != 0:
        raise AssertionError(f"v4d {words} exited with {code}:\n{printed}\n{errors}")
    return subprocess.CompletedProcess(words, code, printed, errors)


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


def make_tiny_data(folder: Path) -> None:
    """Make TINY's data set by the real stages: 20 + 10 synthetic videos in 3 parts."""
    config = write_config(folder, TINY)
    run("annotations", "--config", config, cwd=folder)
    for split, part in (("train", "part_0"), ("train", "part_1"), ("val", "part_0")):
        where = ("--config", config, "--split", split, "--part", part)
        run("download", *where, cwd=folder)
        run("clips", *where, "--threads", 2, cwd=folder)
        run("frames", *where, "--threads", 2, cwd=folder)
    run("manifest", "--config", config, cwd=folder)
