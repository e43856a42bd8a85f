"""What a process has started ends with it: children of any kind, and its temporary files."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.project import environment
from v4d.utils.lifeline import LONGEST_BASE, end_with, lifeline

DEAF = """
import signal, sys
from v4d.utils.lifeline import end_with
end_with(sys.argv[1])
signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
print(flush=True)
sum(range(10**12))  # holds the interpreter's lock
"""
PYTHON_CHILD = f"""
import subprocess, sys
from v4d.utils.lifeline import lifeline
words = [sys.executable, "-c", {DEAF!r}, lifeline()]
child = subprocess.Popen(words, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
"""
ANY_PROGRAM = """
import subprocess
from v4d.utils.lifeline import start_tied
child = start_tied(["sh", "-c", "sleep 600 & echo $!; wait"], stdout=subprocess.PIPE)
print(child.pid, int(child.stdout.readline()), flush=True)
"""
FROM_A_THREAD = """
import threading
from v4d.utils.lifeline import start_tied
def start():
    print(start_tied(["sleep", "600"]).pid, flush=True)
thread = threading.Thread(target=start)
thread.start()
thread.join()
"""
BESIDE_A_FORK = """
import os, time
from v4d.utils.lifeline import lifeline, start_tied
lifeline()
fork = os.fork()
if fork == 0:
    time.sleep(600)
print(start_tied(["sleep", "600"]).pid, flush=True)
"""
FOLDER = """
import tempfile
from v4d.utils.lifeline import keep_temporary_files_together
keep_temporary_files_together()
with open(tempfile.mkdtemp() + "/file", "w") as file:
    print(file.name, flush=True)
"""
WAITS = "import time; time.sleep(600)"


@pytest.fixture
def short() -> Iterator[Path]:
    """A TMPDIR with a short name, which a test's own folder has not."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def start(code: str, **variables: str) -> tuple[subprocess.Popen, str]:
    """A process that runs the code, and its first line."""
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment() | variables, stdout=subprocess.PIPE, text=True
    )
    return process, process.stdout.readline()


@pytest.mark.parametrize("code", [PYTHON_CHILD, ANY_PROGRAM, FROM_A_THREAD, BESIDE_A_FORK])
def test_children_end_when_their_process_is_killed_and_not_before(code):
    process, line = start(f"{code}\n{WAITS}")
    others = psutil.Process(process.pid).children(recursive=True)
    children = [psutil.Process(int(pid)) for pid in line.split()]
    time.sleep(0.3)
    assert all(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    process.kill()
    process.wait()
    lived_on = psutil.wait_procs(children, timeout=10)[1]
    for other in set(others) - set(children):  # the fork, which nobody asked to end
        other.kill()
    process.stdout.close()
    assert lived_on == []


def test_whose_process_has_ended_already_does_not_begin():
    process, line = start("from v4d.utils.lifeline import lifeline; print(lifeline())")
    process.communicate()
    late, _ = start(f"from v4d.utils.lifeline import end_with; end_with({line.strip()!r}); {WAITS}")
    late.communicate(timeout=60)
    assert late.returncode == -signal.SIGKILL


def test_a_process_may_watch_itself():
    end_with(lifeline())  # which ends nothing


@pytest.mark.parametrize("ending", ["", f"\n{WAITS}", "\nimport os; os._exit(0)"])
def test_temporary_files_go_with_the_process(short, ending):
    process, line = start(FOLDER + ending, TMPDIR=str(short))
    file = Path(line.strip())
    if ending and "exit" not in ending:
        (folder,) = short.iterdir()
        assert file.exists() and file.is_relative_to(folder) and folder.stat().st_mode & 0o777 == 0o700
        process.kill()
    process.communicate(timeout=60)
    deadline = time.monotonic() + 10
    while any(short.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(short.iterdir())


def test_the_signals_that_end_a_job_leave_the_sweeper_to_its_work(short):
    process, _ = start(FOLDER + WAITS, TMPDIR=str(short))
    (sweeper,) = psutil.Process(process.pid).children()
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
        sweeper.send_signal(number)
    process.kill()
    process.communicate(timeout=60)
    assert psutil.wait_procs([sweeper], timeout=10)[1] == []
    assert not any(short.iterdir())


def test_below_a_long_tmpdir_sockets_have_room(tmp_path):
    long = tmp_path / ("x" * LONGEST_BASE)
    long.mkdir()
    code = "import multiprocessing.util as util; print(util.get_temp_dir(), flush=True)"
    _, line = start(f"{FOLDER.replace('print', 'str')}\n{code}", TMPDIR=str(long))
    assert len(line.strip()) + len("/listener-xxxxxxxx") < 108
    assert not Path(line.strip()).is_relative_to(long) and not os.path.lexists(line.strip())
