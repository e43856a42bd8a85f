"""Ctrl-C at any moment: one line, exit code 130, nothing half-written, whatever it interrupts."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from tests.support.processes import wait_for
from tests.support.project import TINY, environment, train_command, write_config
from v4d import config as configs

PROGRAM = """
import sys
import v4d.cli
print("begins", flush=True)
sys.exit(v4d.cli.main())
"""


def started(words: list[str], cwd: Path) -> subprocess.Popen:
    """A command in a process group of its own, as a terminal has it; its interpreter runs."""
    command = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words],
        cwd=cwd,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert command.stdout.readline() == "begins\n"
    return command


def cpu_seconds(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return float("inf")
    return times.user + times.system


def interrupt(command: subprocess.Popen) -> None:
    """As a terminal does: every process of the foreground hears it."""
    with contextlib.suppress(ProcessLookupError):  # it has ended
        os.killpg(command.pid, signal.SIGINT)


def ended(command: subprocess.Popen) -> tuple[int, list[str]]:
    """Exit code and lines on stderr."""
    _, said = command.communicate(timeout=120)
    assert "Traceback" not in said and "KeyboardInterrupt" not in said, said
    return command.returncode, [line for line in said.replace("\r", "\n").splitlines() if line.strip()]


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(8))
def test_ctrl_c_while_anything_is_imported_is_one_line(tmp_path, moment):
    """`describe` imports torch and builds a network: two seconds of CPU time."""
    command = started(["describe", "v4d_resnet18"], tmp_path)
    after = cpu_seconds(command.pid) + random.Random(moment).uniform(0.05, 2)
    while command.poll() is None and cpu_seconds(command.pid) < after:
        time.sleep(0.002)
    if command.poll() is None:
        interrupt(command)
    code, lines = ended(command)
    assert (code, lines) in [(130, ["v4d describe: interrupted"]), (0, [])]


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["clips", "frames"])
@pytest.mark.parametrize("moment", range(3))
def test_ctrl_c_in_a_stage_with_children_leaves_the_old_output(tiny, stage, moment):
    folder = tiny / f"data/tiny/{stage}/train"
    before = {path.name: path.read_bytes() for path in folder.glob("part_0.*")}
    words = ["--config", "config.yaml", "--split", "train", "--part", "part_0", "--threads", "2"]
    command = started([stage, *words], tiny)
    after = random.Random(moment).uniform(0.3, 1.5)
    while command.poll() is None and cpu_seconds(command.pid) < after:
        time.sleep(0.005)
    interrupt(command)
    code, lines = ended(command)
    assert code == 0 or (code, lines[-1]) == (130, f"v4d {stage}: interrupted")
    assert {path.name: path.read_bytes() for path in folder.glob("part_0.*")} == before


@pytest.mark.slow
def test_ctrl_c_in_a_training_saves_first_and_it_goes_on_from_there(tiny):
    write_config(tiny, configs.merge(TINY, {"training": {"epochs": 500, "workers": 1, "log_steps": 1}}))
    last = tiny / "results/tiny/v4d/main/checkpoints/last.pt"
    reached = []
    for _ in range(2):
        before = last.stat().st_mtime_ns if last.exists() else 0
        command = started(train_command(2)[3:], tiny)
        wait_for(lambda: last.exists() and last.stat().st_mtime_ns > before, 240)  # noqa: B023
        interrupt(command)
        out, err = command.communicate(timeout=120)
        assert command.returncode == 130, err
        assert "Traceback" not in out + err and err.splitlines()[-1] == "v4d train: interrupted"
        assert "asked to stop: the state is saved, the same command goes on from it" in out
        position = torch.load(last, weights_only=True)["position"]
        reached.append((position["epoch"], position["step"]))
    assert (0, 0) < reached[0] < reached[1] < (500, 0)


def test_ctrl_c_into_a_pipe_that_is_gone_is_130_as_well(tmp_path):
    command = started(["doctor"], tmp_path)
    begun = cpu_seconds(command.pid)
    wait_for(lambda: cpu_seconds(command.pid) > begun + 0.1)
    command.stdout.close()
    command.stderr.close()
    interrupt(command)
    assert command.wait(60) == 130
