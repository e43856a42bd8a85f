"""Processes: how many, what a signal does, and that one which dies takes the others with it."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from tests.support.project import TINY, assert_one_line_error, environment, train_command, v4d, write_config
from v4d import config as configs
from v4d.data.account import fingerprint
from v4d.data.dataset import VideoRecord
from v4d.distributed.group import PipeSafeStream, process_group
from v4d.distributed.launcher import PREEMPTED, processes_for
from v4d.errors import V4DError
from v4d.training.inputs import check_data
from v4d.utils.files import read_json, write_json


@pytest.mark.parametrize(
    ("available", "asked", "gpus", "expected"),
    [(0, None, 8, 2), (0, 3, 8, 3), (8, None, 4, 4), (8, 2, 4, 2), (1, None, 1, 1)],
)
def test_how_many_processes(monkeypatch, available, asked, gpus, expected):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: available)
    assert processes_for(asked, gpus, cpu_processes=2) == expected


@pytest.mark.parametrize("available", [0, 8])
@pytest.mark.parametrize("asked", [0, -1])
def test_less_than_one_process_is_refused(monkeypatch, available, asked):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: available)
    with pytest.raises(V4DError, match=f"--nproc {asked}: at least one process is needed"):
        processes_for(asked, 1, cpu_processes=2)


@pytest.mark.parametrize(("asked", "gpus"), [(3, 1), (None, 3)])
def test_more_than_there_are_gpus_is_refused(monkeypatch, asked, gpus):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(V4DError, match="--nproc 3: this machine has 2 GPUs"):
        processes_for(asked, gpus, cpu_processes=2)


def start(project: Path, **training) -> subprocess.Popen:
    """A training with two processes that would go on for minutes, once its first checkpoint is there."""
    changes = {"epochs": 400, "log_steps": 1, "checkpoint_minutes": 1e-9} | training
    write_config(project, configs.merge(TINY, {"training": changes}))
    words = [sys.executable, "-m", "v4d.cli", "train", "--config", "config.yaml", "--model", "v4d"]
    training = subprocess.Popen(
        [*words, "--nproc", "2"],
        cwd=project,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 120
    while not (project / "results/tiny/v4d/main/checkpoints/last.pt").exists():
        assert training.poll() is None and time.monotonic() < deadline, training.stderr.read()
        time.sleep(0.1)
    return training


@pytest.mark.slow
@pytest.mark.parametrize(("number", "to_all"), [(signal.SIGUSR1, False), (signal.SIGTERM, True)])
def test_a_signal_saves_and_asks_for_another_start(tiny, number, to_all):
    """Also one to each process of the job, as Slurm sends it. To save, ten batches more must be loaded."""
    training = start(tiny, batch_size=2, log_steps=10, workers=1)
    first = psutil.Process(training.pid)
    for process in [first, *(first.children(recursive=True) if to_all else [])]:
        process.send_signal(number)
    printed, errors = training.communicate(timeout=60)
    assert training.returncode == PREEMPTED, errors
    assert "the state is saved" in printed and "error" not in errors.lower()
    state = torch.load(tiny / "results/tiny/v4d/main/checkpoints/last.pt", weights_only=True)
    epoch, step = state["position"]["epoch"] + 1, state["position"]["step"]
    assert epoch > 1 or step > 0
    again = start(tiny, batch_size=2, log_steps=10)
    begun = again.stdout.readline()
    again.send_signal(number)
    again.communicate(timeout=60)
    where = f"the validation of epoch {epoch}" if step == 10 else f"epoch {epoch}, step {step + 1}"
    assert begun.endswith(f"goes on at {where}\n")


def test_a_stream_that_nobody_reads_stops_nothing():
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "wb", buffering=0) as raw:
        stream = PipeSafeStream(io.TextIOWrapper(raw, write_through=True))
        print("loss 1.0", file=stream, flush=True)
        with pytest.raises(BrokenPipeError):
            stream.buffer.write(b"this is how it would have ended")


def test_who_fails_does_not_wait_for_the_others(monkeypatch):
    """Which NCCL would have it do: they wait in a collective for this one."""
    left = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: left.append("gracefully"))
    with pytest.raises(RuntimeError), process_group():
        raise RuntimeError("cudaErrorLaunchFailure")
    assert not left
    with process_group():
        pass
    assert left


@pytest.mark.slow
def test_a_rank_that_dies_takes_the_job_down(tiny):
    training = start(tiny)
    ranks = [p for p in psutil.Process(training.pid).children() if "worker" in " ".join(p.cmdline())]
    assert len(ranks) == 2
    ranks[1].kill()
    _, errors = training.communicate(timeout=60)
    assert training.returncode == 1
    assert "was killed by SIGKILL" in errors or "error" in errors.lower()
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in ranks)


BREAKS_ON_RANK_1 = """
import os
if os.environ.get("RANK") == "1":
    from v4d.training.step import TrainStep
    def step(self, *args, **kwargs):
        raise RuntimeError("cudaErrorLaunchFailure")
    TrainStep.step = step
"""


@pytest.mark.slow
def test_a_rank_that_raises_leaves_its_traceback_and_ends_the_others(tiny):
    (tiny / "hook").mkdir()
    (tiny / "hook/sitecustomize.py").write_text(BREAKS_ON_RANK_1)
    env = environment()
    env["PYTHONPATH"] = f"{tiny / 'hook'}:{env['PYTHONPATH']}"
    words = train_command(2)
    done = subprocess.run(words, cwd=tiny, env=env, text=True, capture_output=True, timeout=90)
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "RuntimeError: cudaErrorLaunchFailure" in done.stderr
    assert not (tiny / "results/tiny/v4d/main/final.pt").exists()


@pytest.mark.parametrize("classes", [["a", "b", "c"], ["a", "b"]])
def test_a_class_without_training_videos_is_refused(classes):
    stage = configs.build(configs.resolve(TINY)).models["v4d"].final
    videos = [VideoRecord(f"v{n}", n % 2, "x.lmdb", 100) for n in range(8)]
    if len(classes) == 2:
        check_data(stage, videos, classes, processes=1)
        return
    with pytest.raises(V4DError, match="split 'train' has no usable video of class 'c'"):
        check_data(stage, videos, classes, processes=1)


@pytest.mark.slow
def test_a_second_training_of_the_same_stage_is_refused(tiny):
    training = start(tiny)
    done = v4d("train", "--config", "config.yaml", "--model", "v4d", "--nproc", 1, cwd=tiny, check=False)
    ranks = psutil.Process(training.pid).children(recursive=True)
    training.kill()
    for rank in ranks:
        with contextlib.suppress(psutil.NoSuchProcess):  # it may end with its launcher
            rank.kill()
    training.communicate(timeout=60)
    assert_one_line_error(done, "is being written by process")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training": {"batch_size": 40}}, ["batch_size 40", "20 training videos"]),
        ({"training": {"batch_size": 5}}, ["batch_size 5", "2 processes"]),
        ({"models": {"v4d": {"units": 64, "frames": 1}}, "dataset": {"name": "tiny"}}, ["units 64"]),
    ],
)
def test_what_cannot_be_trained_is_one_line(tiny, changes, words):
    if "units 64" in words:
        changes = changes | {"training": {"batch_size": 4}}
        _shorten(tiny)
    write_config(tiny, configs.merge(TINY, changes))
    done = v4d("train", "--config", "config.yaml", "--model", "v4d", "--nproc", 2, cwd=tiny, check=False)
    assert_one_line_error(done, *words)
    assert not (tiny / "results/tiny/v4d/main/final.pt").exists()


def _shorten(project: Path) -> None:
    """Have the manifest say that every video has 10 frames, and dataset.json what follows from it."""
    import pandas

    root = project / "data/tiny"
    manifest = pandas.read_parquet(root / "manifest.parquet").assign(num_frames=10)
    manifest.to_parquet(root / "manifest.parquet", index=False)
    info = read_json(root / "dataset.json")
    now = fingerprint(read_json(root / "annotations/classes.json"), info["settings"], manifest)
    write_json(root / "dataset.json", info | {"fingerprint": now})


def test_a_model_or_stage_that_is_not_there_is_one_line(tiny):
    for words in (["--model", "x4d"], ["--model", "v4d", "--stage", "second"]):
        done = v4d("train", "--config", "config.yaml", *words, cwd=tiny, check=False)
        assert_one_line_error(done, words[-1])
