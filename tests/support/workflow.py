"""A project folder as after `git clone`, and Snakemake in it."""

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import yaml

from tests.support.processes import start
from tests.support.project import ROOT, TINY, environment
from v4d import config as configs

WORKFLOW = configs.merge(
    TINY,
    {
        "name": "flow",
        "dataset": {"name": "flow", "part_size": 20},
        "models": {
            "i3ds": None,
            "tsn": None,
            "v4d": {"arch": "v4d_tiny", "units": 2, "frames": 2, "frame_stride": 3, "dropout": 0.5},
        },
        "testing": {"crops": 1, "orders": ["normal", "units_reversed", "frames_reversed"]},
        "training": {"processes": 1, "checkpoint_minutes": 1e-9},
        "tracking": {"backend": "mlflow", "log_model": False, "system_metrics": False},
    },
)


def checkout(folder: Path) -> Path:
    """What a user has after `git clone`, without the tests."""
    for name in ("Snakefile", "workflow", "profiles", "config", "envs", "v4d"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name)
    (folder / "flow.yaml").write_text(yaml.safe_dump(WORKFLOW))
    return folder


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "snakemake", "--cores", "2", "--configfile", "flow.yaml", *words]


def snakemake(folder: Path, *words: str, check: bool = True) -> str:
    """Run Snakemake and return all that it printed."""
    if "-n" in words:
        code, printed = dry_run(folder, *command(*words)[3:])
    else:
        env = environment() | {"PYTHONPATH": str(folder)}
        done = subprocess.run(
            command(*words), cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        code, printed = done.returncode, done.stdout
    if check:
        assert code == 0, printed
    return printed


def dry_run(folder: Path, *words: str) -> tuple[int | None, str]:
    """Run Snakemake without jobs, in a fork of this process; its exit code and what it printed."""
    import snakemake.cli  # noqa: F401  for the fork to have

    with tempfile.NamedTemporaryFile("r") as printed:
        child = start(_snakemake, folder, words, printed.name)
        child.join()
        return child.exitcode, printed.read()


def _snakemake(folder: Path, words: tuple[str, ...], printed: str) -> None:
    from snakemake.cli import main

    os.chdir(folder)
    os.environ["PYTHONPATH"] = str(folder)
    sys.path.insert(0, str(folder))
    with Path(printed).open("w", buffering=1) as file, redirect_stdout(file), redirect_stderr(file):
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            main(list(words))
        except SystemExit as end:
            # multiprocessing would print the message to pytest's own stderr.
            if isinstance(end.code, str):
                print(end.code)
                raise SystemExit(1) from None
            raise
