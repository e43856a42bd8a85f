"""The lease on GPUs, held by real processes; it needs no GPU."""

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.project import environment
from v4d.distributed import gpu_lease as gpus
from v4d.distributed import group
from v4d.distributed import launcher as distributed
from v4d.distributed.gpu_lease import Gpu, hold, lease, lock_file
from v4d.errors import V4DError

GPUS = [Gpu(str(index), f"GPU-{index:04d}") for index in range(4)]

LAUNCHER = """
import os, subprocess, sys, time
from pathlib import Path
from v4d.distributed.gpu_lease import Gpu, lease, lock_file

count, folder = int(sys.argv[1]), Path(sys.argv[2])
gpus = [Gpu(str(i), f"GPU-{i:04d}") for i in range(4)]
child = "import sys, time; from pathlib import Path; from v4d.distributed.gpu_lease import hold;"
child += "file = hold(Path(sys.argv[1]), sys.argv[2]); print('held', flush=True); time.sleep(120)"
with lease(gpus, count, folder) as taken:
    words = [sys.executable, "-c", child, str(lock_file(taken[0], folder)), str(os.getpid())]
    worker = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    worker.stdout.readline()
    print(worker.pid, *[gpu.token for gpu in taken], flush=True)
    time.sleep(120)
"""


@pytest.fixture
def launcher(tmp_path: Path):
    """Start a job that holds GPUs, with one process of its own: (launcher, that process's id, its GPUs)."""
    started = []

    def start(count: int) -> tuple[subprocess.Popen, int, list[str]]:
        words = [sys.executable, "-c", LAUNCHER, str(count), str(tmp_path)]
        job = subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, text=True)
        worker, *tokens = job.stdout.readline().split()
        started.extend([job.pid, int(worker)])
        return job, int(worker), tokens

    yield start
    for pid in started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def tokens(taken: list[Gpu]) -> list[str]:
    return [gpu.token for gpu in taken]


def test_jobs_side_by_side_have_gpus_of_their_own(tmp_path, launcher):
    _, _, first = launcher(2)
    assert first == ["0", "1"]
    with lease(GPUS, 1, tmp_path) as second, lease(GPUS, 1, tmp_path) as third:
        assert tokens(second) + tokens(third) == ["2", "3"]


def test_a_lease_dies_with_its_holders_and_not_before(tmp_path, launcher, capfd):
    job, worker, first = launcher(3)
    assert first == ["0", "1", "2"]
    job.kill()
    job.wait()
    # GPU 0 is still worked on, by a process whose launcher is gone
    with lease(GPUS, 3, tmp_path) as taken:
        assert tokens(taken) == ["1", "2", "3"]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(take_and_release, GPUS[:1], tmp_path)
        said = ""
        while not said:
            said = capfd.readouterr().err
        assert f"waiting for 1 of 1 GPU: they are leased to process {job.pid}" in said
        assert not waiting.done()
        os.kill(worker, signal.SIGKILL)
        assert waiting.result(timeout=30) == ["0"]


def take_and_release(some: list[Gpu], folder: Path) -> list[str]:
    with lease(some, 1, folder) as taken:
        return tokens(taken)


def test_who_waits_holds_nothing(tmp_path, launcher):
    """A job of 3 waits while 2 are free; a job of 2 must get these."""
    launcher(2)
    words = [sys.executable, "-c", LAUNCHER, "3", str(tmp_path)]
    greedy = subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True)
    assert "waiting for 3 of 4 GPUs" in greedy.stderr.readline()
    with lease(GPUS, 2, tmp_path) as taken:
        assert tokens(taken) == ["2", "3"]
        assert greedy.poll() is None
    greedy.kill()
    greedy.communicate()


def test_many_at_once_never_share(tmp_path):
    """30 takers of one to three of 4 GPUs: no GPU is in two hands at any time, and all are served."""
    owned: set[str] = set()

    def work(count: int) -> int:
        with lease(GPUS, count, tmp_path) as taken:
            mine = set(tokens(taken))
            assert not mine & owned, "shared"
            owned.update(mine)
            time.sleep(0.005)
            owned.difference_update(mine)
        return len(mine)

    with ThreadPoolExecutor(6) as pool:
        counts = [1 + number % 3 for number in range(30)]
        assert list(pool.map(work, counts)) == counts


def test_a_process_shares_its_launcher_s_lock_only(tmp_path, launcher):
    path = lock_file(GPUS[0], tmp_path)
    job, worker, _ = launcher(1)
    with hold(path, job.pid):
        pass
    for process in (worker, job.pid):
        os.kill(process, signal.SIGKILL)
    job.wait()
    # A process of the dead job that comes late must not work beside the next one's.
    with lease(GPUS[:1], 1, tmp_path), pytest.raises(V4DError, match=f"is now by process {os.getpid()}"):
        hold(path, job.pid)


def test_more_than_there_are_is_one_line(tmp_path):
    with pytest.raises(V4DError, match="5 GPUs are needed, 4 are visible"), lease(GPUS, 5, tmp_path):
        pass


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    words = r"GPUs cannot be leased: .*; V4D_SHARE_GPUS=1 goes without"
    with pytest.raises(V4DError, match=words), lease(GPUS, 1, tmp_path / "absent"):
        pass


def as_link(path: Path, mine: Path) -> None:
    path.symlink_to(mine)


def as_dangling_link(path: Path, mine: Path) -> None:
    path.symlink_to(mine.with_name("created"))


def as_second_name(path: Path, mine: Path) -> None:
    os.link(mine, path)


def as_fifo(path: Path, mine: Path) -> None:
    os.mkfifo(path)


def as_folder(path: Path, mine: Path) -> None:
    path.mkdir()


def as_socket(path: Path, mine: Path) -> None:
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path.name)


def as_device(path: Path, mine: Path) -> None:
    path.symlink_to("/dev/zero")


PLANTED = [as_link, as_dangling_link, as_second_name, as_fifo, as_folder, as_socket, as_device]


@pytest.mark.parametrize("name", [gpus.GATE, lock_file(GPUS[0], Path()).name])
@pytest.mark.parametrize("plant", PLANTED)
def test_what_another_user_has_planted_is_refused_and_left_alone(tmp_path, plant, name):
    folder, mine = tmp_path / "gpus", tmp_path / "mine.txt"
    folder.mkdir()
    mine.write_text("years of work")
    plant(folder / name, mine)
    before = sorted(tmp_path.iterdir())
    words = r"GPUs cannot be leased: .*V4D_SHARE_GPUS=1"
    with pytest.raises(V4DError, match=words), lease(GPUS[:1], 1, folder):
        pass
    with pytest.raises(V4DError, match="GPUs cannot be leased"):
        hold(folder / name, os.getpid())
    assert mine.read_text() == "years of work"
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_is_a_link_or_in_which_anybody_may_replace_files_is_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    for folder in ("link", "open"):
        with pytest.raises(V4DError, match="GPUs cannot be leased"), lease(GPUS, 1, tmp_path / folder):
            pass
        assert list((tmp_path / folder).iterdir()) == []
    (tmp_path / "open").chmod(0o1777)
    with lease(GPUS, 1, tmp_path / "open") as taken:
        assert tokens(taken) == ["0"]


@settings(max_examples=50, deadline=None)
@given(content=st.binary(max_size=100))
def test_whatever_a_lock_file_holds_it_is_taken_or_said_in_one_line(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp() / "scribbled"
    folder.mkdir(exist_ok=True)
    path = lock_file(GPUS[0], folder)
    path.write_bytes(content)
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        words = gpus._waiting_words(GPUS[:1], 1, folder)
    assert words.isprintable() and len(words) < 200
    with lease(GPUS[:1], 1, folder):
        assert path.read_text() == str(os.getpid())
    path.write_bytes(content)
    with pytest.raises(V4DError) as raised:
        hold(path, "none")
    assert str(raised.value).isprintable()


@pytest.fixture
def two_visible(monkeypatch, tmp_path):
    """A machine with four GPUs of which this job may see two, under other names than their places."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(gpus, "visible_gpus", lambda: [Gpu("3", "GPU-0003"), Gpu("1", "GPU-0001")])
    monkeypatch.setattr(gpus, "lease_folder", lambda: tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    monkeypatch.setenv(gpus.LEASES, "")
    return tmp_path


def test_the_processes_see_what_was_leased(two_visible, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    with lease([Gpu("3", "GPU-0003")], 1, two_visible), distributed._leased_gpus(1):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
        with group._hold_lease() as held:
            assert Path(f"/proc/self/fd/{held.fileno()}").readlink().name == "GPU-0001.lock"


def test_sharing_is_for_who_asks(two_visible, monkeypatch):
    monkeypatch.setenv(gpus.SHARE, "1")
    with lease([Gpu("3", "GPU-0003")], 1, two_visible), distributed._leased_gpus(2):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,1"
        assert group._hold_lease() is None
