"""A kill -9 of any one process of a stage that makes data, or of `predict`, leaves nothing of it behind."""

import os
import random
import shlex
import sys
import tarfile
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.support import made_by_hand as made
from tests.support.project import ROOT
from tests.support.watched import Watched, watched
from v4d.utils.ffmpeg import ffmpeg_binary

SEEDS = range(int(os.environ.get("V4D_KILLS", "1")))
"""How many kills of each role; V4D_KILLS=4 for a look that is closer."""
SLOW_DECODER = """
import functools, time
from v4d.preprocessing import decode
fast = decode.decode_clip
@functools.wraps(fast)
def slow(*args, **kwargs):
    time.sleep(1)
    return fast(*args, **kwargs)
decode.decode_clip = slow
"""
PART = ("--config", "config.yaml", "--split", "train", "--part", "part_0", "--threads", "2")
ROLES = [
    *(("clips", role) for role in ("main", "ffmpeg", "sweeper")),
    *(("frames", role) for role in ("main", "worker", "fork server", "resource tracker", "sweeper")),
    *(("predict", role) for role in ("main", "worker", "fork server")),
]


def start(command: str, project: Path) -> AbstractContextManager[Watched]:
    """One of the commands, slow enough to be met."""
    hook = project / "hook"
    hook.mkdir()
    variables = {}
    if command == "clips":
        stub = hook / "ffmpeg"
        # Asked for its version or its encoders it answers at once.
        slow = f'case "$*" in *timelimit*) sleep 1;; esac; exec {shlex.quote(ffmpeg_binary())} "$@"'
        stub.write_text(f"#!/bin/sh\n{slow}\n")
        stub.chmod(0o755)
        variables["V4D_FFMPEG"] = str(stub)
    else:
        (hook / "sitecustomize.py").write_text(SLOW_DECODER)
        variables["PYTHONPATH"] = f"{hook}:{ROOT}"
    words = [command, *PART]
    if command == "predict":
        made.save(made.random_model(hook / "random.pt"), hook / "random.pt")
        with tarfile.open(project / "data/tiny/archives/val/part_0.tar.gz") as archive:
            archive.extractall(project / "videos", filter="data")
        words = ["predict", "videos", "--checkpoint", "hook/random.pt", "--crops", "1"]
    return watched([sys.executable, "-m", "v4d.cli", *words], project, **variables)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("command", "role"), ROLES)
def test_nothing_is_left(tiny, command, role, seed):
    lots = random.Random(f"{command} {role} {seed}")
    with start(command, tiny) as running:
        running.wait_for(lambda: running.role(role))
        time.sleep(lots.uniform(0, 1))
        running.note_shared_memory()
        lots.choice(running.wait_for(lambda: running.role(role))).kill()
        running.assert_nothing_is_left()
        assert "Traceback" not in running.said.read_text()
        litter = [path for path in tiny.rglob(".*") if path.suffix != ".lock"]
        assert role == "main" or not litter
