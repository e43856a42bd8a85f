"""A kill -9 of any one process of a training, at any moment, leaves nothing of it behind."""

import os
import random
import shlex
import signal
import time

import pytest

from tests.support.project import TINY, train_command, write_config
from tests.support.watched import Watched, watched
from v4d import config as configs

SEEDS = range(int(os.environ.get("V4D_KILLS", "1")))
"""How many kills of each role; V4D_KILLS=4 for a look that is closer."""
ENDS_IT = ("main", "rank", "fork server", "worker")
GOES_ON = ("resource tracker", "sweeper")


def start(project, **training):
    """A training of two ranks that would go on for minutes, with a worker each."""
    changes = {"epochs": 400, "log_steps": 1, "checkpoint_minutes": 1e-9, "workers": 1} | training
    write_config(project, configs.merge(TINY, {"training": changes}))
    return watched(train_command(2), project)


def kill_one(training: Watched, role: str, seed: int) -> None:
    """Kill a process of a role: as soon as there is one, or up to some seconds later."""
    lots = random.Random(f"{role} {seed}")
    # Without its workers, a fork server is replaced by another.
    training.wait_for(lambda: training.role("worker" if role == "fork server" else role))
    time.sleep(lots.choice([0, 1]) * lots.uniform(0, 8))
    training.note_shared_memory()
    lots.choice(training.wait_for(lambda: training.role(role))).kill()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("role", ENDS_IT)
def test_the_training_ends_and_nothing_is_left(tiny, role, seed):
    with start(tiny) as training:
        kill_one(training, role, seed)
        training.assert_nothing_is_left()
        assert training.process.returncode == (-signal.SIGKILL if role == "main" else 1)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("role", GOES_ON)
def test_the_training_goes_on_and_nothing_is_left_in_the_end(tiny, role, seed):
    with start(tiny) as training:
        kill_one(training, role, seed)
        checkpoint = tiny / "results/tiny/v4d/main/checkpoints/last.pt"
        training.wait_for(checkpoint.exists)
        before = checkpoint.stat().st_mtime_ns
        training.wait_for(lambda: checkpoint.stat().st_mtime_ns > before)
        training.process.terminate()
        training.assert_nothing_is_left()
        assert training.process.returncode == 75


def test_a_training_outlives_who_started_it(tiny):
    """Snakemake, a shell, or the `tee` behind it."""
    write_config(tiny, configs.merge(TINY, {"training": {"epochs": 1, "workers": 1}}))
    shell = f"{shlex.join(train_command(2))} 2>&1 | tee said; true"
    with watched(["bash", "-c", shell], tiny) as job:
        job.wait_for(lambda: job.role("rank"))
        for process in job.living():
            if process.name() in ("bash", "tee"):
                process.kill()
        deadline = time.monotonic() + 120
        while job.living() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert (tiny / "results/tiny/v4d/main/final.pt").exists()
        assert not job.left()
