"""A loader's workers: deaf to the signals that ask a job to stop, and sharing memory that has no name."""

import os
import signal
import subprocess
import sys
from multiprocessing import forkserver
from pathlib import Path

import psutil
import pytest
import torch

from tests.support.project import environment
from tests.support.shards import write_records
from v4d.config import CropConfig
from v4d.data.dataset import VideoRecord
from v4d.data.loader import Loader, train_loader
from v4d.data.sampling import ClipSpec
from v4d.data.workers import shared_bytes
from v4d.errors import WorkerDied

CROP = CropConfig(kind="multi_scale", size=40, jitter=(64, 80), flip=0.5)
TRAIN = {"clip": ClipSpec(3, 4, 2), "crop": CROP, "batch_size": 4, "seed": 5}


@pytest.fixture(scope="module")
def shard_records(tmp_path_factory) -> list[VideoRecord]:
    return write_records(tmp_path_factory.mktemp("shards"))


def workers(loader: Loader) -> list[int]:
    return [worker.pid for worker in loader._data._iterator._workers]


def mapping(tensor: torch.Tensor) -> str:
    """What a tensor's memory is a part of, as this process's table of mappings names it."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(word, 16) for word in line.split()[0].split("-"))
        if start <= tensor.data_ptr() < end:
            return line[line.index("/") :] if "/" in line else ""
    raise AssertionError("no mapping")


@pytest.mark.parametrize("decode_on", ["host", "device"])
def test_no_tensor_comes_through_a_named_file(shard_records, decode_on):
    batch = next(iter(train_loader(shard_records, **TRAIN, workers=1, decode_on=decode_on)))
    frames = batch.frames if decode_on == "host" else batch.encoded.data
    for tensor in (frames, batch.class_index, batch.weight):
        assert mapping(tensor) == "/memfd:v4d-batch (deleted)"


def test_shared_bytes_are_a_tensor_like_others():
    tensor = shared_bytes((2, 3, 4))
    assert tensor.shape == (2, 3, 4) and tensor.dtype == torch.uint8 and tensor.is_shared()
    tensor.fill_(7)
    assert tensor.sum() == 7 * 24


DEAF = """
import multiprocessing.forkserver as forkserver, multiprocessing.resource_tracker as tracker
import os, sys, time
from pathlib import Path
import psutil
from tests.data.test_workers import TRAIN, held_back, workers
from tests.support.project import environment
from tests.support.shards import write_records
from v4d.data.loader import train_loader

records = write_records(Path(sys.argv[1]))
for attempt in range(2):
    loader = train_loader(records, **TRAIN, workers=1)
    if attempt == 1:  # the fork server is replaced
        server = psutil.Process(forkserver._forkserver._forkserver_pid)
        server.kill()
        while server.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
    list(loader)
    others = [tracker._resource_tracker._pid, forkserver._forkserver._forkserver_pid, *workers(loader)]
    print([held_back(pid) for pid in [os.getpid(), *others]])
    del loader
"""


def held_back(pid: int) -> list[int]:
    """Those of the signals to stop that a process holds back or ignores."""
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    mask = int(status["SigBlk"], 16) | int(status["SigIgn"], 16)
    return [int(number) for number in (signal.SIGUSR1, signal.SIGTERM) if mask >> number - 1 & 1]


def test_nobody_beside_the_training_hears_the_signals_to_stop(tmp_path):
    words = [sys.executable, "-c", DEAF, str(tmp_path)]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True)
    assert done.stdout.splitlines() == [str([[], [10, 15], [10, 15], [10, 15]])] * 2, done.stderr


def test_workers_end_with_their_fork_server(shard_records):
    loader = train_loader(shard_records, **(TRAIN | {"batch_size": 1}), workers=2)
    running = iter(loader)
    next(running)
    children = [psutil.Process(pid) for pid in workers(loader)]
    os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
    with pytest.raises(WorkerDied):
        list(running)
    assert psutil.wait_procs(children, timeout=10)[1] == []
