"""One order of configs: Snakemake and the command line read the same files to the same document."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.project import TINY, environment, write_config
from tests.support.workflow import checkout
from v4d import config

pytestmark = pytest.mark.slow

PLACES = {"models": {"v4d": {"blocks": {"res3": [1]}}}}


def resolved(folder: Path, *words: str) -> dict:
    """What a run of Snakemake takes as its config; it stops behind the first rule."""
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--until", "annotations", *words]
    env = environment() | {"PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=env, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("results/*/config.yaml")
    return yaml.safe_load(path.read_text())


def test_two_files_are_the_same_document_to_snakemake_and_to_the_command_line(tmp_path):
    folder = checkout(tmp_path)
    first = write_config(folder, config.merge(TINY, PLACES), "first.yaml")
    second = write_config(folder, {"models": {"v4d": {"blocks": {"res4": [1]}}}}, "second.yaml")
    document = resolved(folder, "--configfile", "first.yaml", "second.yaml", "--config", "seed=3")
    assert document == config.load(first, second).document | {"seed": 3}
    assert document["models"]["v4d"]["blocks"] == {"res4": [1]}  # places replace, they are not joined
    assert set(document["models"]) == {"v4d"}  # nothing of the demo
    assert document["clips"]["size"] == "40x32" and document["testing"]["crops"] == 3
    assert document["training"]["crop"]["flip"] == 0.0 and document["training"]["epochs"] == 2


def test_the_demo_counts_where_no_file_is_given(tmp_path):
    folder = checkout(tmp_path)
    document = resolved(folder, "--config", "seed=3")
    assert document == config.load(folder / "config/config.yaml").document | {"seed": 3}
