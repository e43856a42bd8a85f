"""A project folder as after `git clone`, and Snakemake in it."""

import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from tests.support.project import ROOT, TINY, environment
from v4d import config as configs

WORKFLOW = configs.merge(
    TINY,
    {
        "name": "flow",
        "dataset": {"name": "flow"},
        "models": {
            "i3ds": None,
            "tsn": None,
            "v4d": {"arch": "v4d_tiny", "units": 2, "frames": 2, "frame_stride": 3, "dropout": 0.5},
        },
        "testing": {"orders": ["normal", "units_reversed", "frames_reversed"]},
        "training": {"processes": 2, "checkpoint_minutes": 1e-9},
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
    env = environment() | {"PYTHONPATH": str(folder)}
    done = subprocess.run(
        command(*words), cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if check:
        assert done.returncode == 0, done.stdout
    return done.stdout
