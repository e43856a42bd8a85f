"""The script that proves a GPU goes through all its parts on a CPU, so that it is never stale."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("parts", "rows"),
    [
        pytest.param(["testing", "feeding", "parity"], 22, marks=pytest.mark.slow),
        pytest.param(["steps", "training"], 15, marks=pytest.mark.long),
    ],
)
def test_the_gpu_script_goes_through_its_parts(tmp_path, parts, rows):
    found = tmp_path / "gpu.json"
    words = [sys.executable, "benchmarks/gpu.py", "--tiny", "--only", *parts, "--output", found]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(found.read_text())
    assert document["failures"] == []
    assert [*document["seconds"]] == parts
    assert all(row.get("holds", True) for part in parts for row in document[part])
    assert sum(len(document[part]) for part in parts) >= rows


@pytest.mark.slow
def test_without_a_gpu_it_says_so(tmp_path):
    words = [sys.executable, ROOT / "benchmarks" / "gpu.py"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "gpu.py: error: no GPU is seen; --tiny goes through everything on a CPU\n"
    assert not [*tmp_path.iterdir()]
