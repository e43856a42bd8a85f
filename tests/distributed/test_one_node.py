"""The launcher of one machine, with ranks that do as they are told and import no torch."""

import signal
import subprocess
import sys

import psutil
import pytest

from tests.support.project import environment

LAUNCHER = """
import sys
from v4d.distributed.job import Interrupted
from v4d.distributed.one_node import run
try:
    print(run(["-c", sys.argv[1]], 2))
except Interrupted:
    print("interrupted")
"""
RANK = """
import os, signal, subprocess, sys, time
rank = int(os.environ["RANK"])
def say(what):
    os.write(1, f"{rank} {what}\\n".encode())
"""
WAITS = "say('ready'); time.sleep(600)"


def start(rank: str) -> subprocess.Popen:
    words = [sys.executable, "-c", LAUNCHER, RANK + rank]
    return subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, text=True)


def start_ready(rank: str) -> subprocess.Popen:
    """Once both ranks have said that they are ready."""
    launcher = start(rank)
    assert {launcher.stdout.readline() for _ in range(2)} == {"0 ready\n", "1 ready\n"}
    return launcher


def ended(launcher: subprocess.Popen) -> str:
    """The launcher's last line; no process of its job is left then."""
    ranks = psutil.Process(launcher.pid).children()
    printed, _ = launcher.communicate(timeout=60)
    assert not any(rank.is_running() for rank in ranks)
    return printed.splitlines()[-1]


@pytest.mark.parametrize(
    ("rank", "expected"),
    [
        ("", "Ended(rank=0, code=0, passed_on=frozenset())"),
        ("sys.exit(3 * rank)", "Ended(rank=1, code=3, passed_on=frozenset())"),
        ("if rank == 0: time.sleep(600)\nsys.exit(75)", "Ended(rank=1, code=75, passed_on=frozenset())"),
        (
            "os.kill(os.getpid(), 9) if rank else time.sleep(600)",
            "Ended(rank=1, code=-9, passed_on=frozenset())",
        ),
    ],
)
def test_the_first_failure_is_what_comes_of_a_job(rank, expected):
    assert ended(start(rank)) == expected


def test_a_rank_that_was_killed_is_the_reason_for_what_the_others_say():
    """Rank 0 fails because rank 1 is gone: it gets the lock that rank 1 has held."""
    rank = f"""
import fcntl
store = os.open(os.environ["V4D_STORE"], os.O_RDWR)
def stop(*_):
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    fcntl.flock(store, fcntl.LOCK_EX)
    sys.exit(1)
signal.signal(signal.SIGTERM, stop)
if rank == 1:
    fcntl.flock(store, fcntl.LOCK_EX)
{WAITS}
"""
    launcher = start_ready(rank)
    launcher.terminate()
    assert ended(launcher).startswith("Ended(rank=1, code=-9, ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_stop_signal_goes_to_the_ranks_and_not_to_their_children(number):
    rank = f"""
def stop(*_):
    say(f"stops, and its child is {{'there' if child.poll() is None else 'gone'}}")
    child.kill()
    sys.exit(75)
child = subprocess.Popen(["sleep", "600"])
signal.signal({int(number)}, stop)
{WAITS}
"""
    launcher = start_ready(rank)
    launcher.send_signal(number)
    printed, _ = launcher.communicate(timeout=60)
    *lines, last = sorted(printed.splitlines())
    assert lines == [f"{rank} stops, and its child is there" for rank in (0, 1)]
    assert last == f"Ended(rank=0, code=75, passed_on=frozenset({{{int(number)}}}))"


def test_a_rank_that_hears_it_too_early_dies_of_it():
    launcher = start_ready(WAITS)
    launcher.terminate()
    assert ended(launcher) == "Ended(rank=0, code=-15, passed_on=frozenset({15}))"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_ctrl_c_ends_the_ranks_as_sigterm_does(number):
    launcher = start_ready(f"signal.signal(signal.SIGTERM, lambda *_: (say('saves'), sys.exit(75)))\n{WAITS}")
    launcher.send_signal(number)
    printed, _ = launcher.communicate(timeout=60)
    assert sorted(printed.splitlines()) == ["0 saves", "1 saves", "interrupted"]


def test_a_second_ctrl_c_does_not_wait():
    launcher = start_ready(f"signal.signal(signal.SIGTERM, lambda *_: say('will not'))\n{WAITS}")
    launcher.send_signal(signal.SIGINT)
    assert {launcher.stdout.readline() for _ in range(2)} == {"0 will not\n", "1 will not\n"}
    launcher.send_signal(signal.SIGINT)
    assert ended(launcher) == "interrupted"


def test_under_nohup_the_end_of_the_terminal_ends_nothing():
    words = ["nohup", sys.executable, "-c", LAUNCHER, f"{RANK}say('ready'); time.sleep(1)"]
    launcher = subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, text=True)
    launcher.stdout.readline()
    launcher.send_signal(signal.SIGHUP)
    assert ended(launcher) == "Ended(rank=0, code=0, passed_on=frozenset())"


def test_the_ranks_meet_where_nobody_else_can_and_talk_on_loopback():
    names = ["GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "LOCAL_RANK", "WORLD_SIZE"]
    rank = f"""
store = os.open(os.environ["V4D_STORE"], os.O_RDWR | os.O_APPEND)
os.write(store, b"x")
while os.fstat(store).st_size < 2:
    time.sleep(0.01)
say([os.environ[name] for name in {names}])
say(os.readlink(os.environ["V4D_STORE"]))
"""
    printed, _ = start(rank).communicate(timeout=60)
    for rank in "01":
        assert f"{rank} ['lo', '=lo', '{rank}', '2']" in printed
        assert f"{rank} /memfd:v4d-store (deleted)" in printed
