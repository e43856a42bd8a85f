"""A loader's workers: deaf to the signals that ask a job to stop, and sharing memory that has no name."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from tests.support.project import environment
from tests.support.shards import write_records
from v4d.config import CropConfig
from v4d.data import shards
from v4d.data.dataset import VideoRecord
from v4d.data.loader import Loader, train_loader
from v4d.data.sampling import ClipSpec
from v4d.data.shards import ShardReader
from v4d.data.workers import shared_bytes
from v4d.errors import V4DError, WorkerDied

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


# Open files

MANY_SHARDS = """
import resource, sys
from tests.data.test_workers import TRAIN
from v4d.data.dataset import VideoRecord
from v4d.data.loader import train_loader

folder, video_id, shards, workers, limit = sys.argv[1:]
records = [VideoRecord(video_id, 0, f"{folder}/{n}.lmdb", 40) for n in range(int(shards))]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(64, int(limit)), int(limit)))
if __name__ == "__main__":
    loader = train_loader(records, workers=int(workers), **TRAIN)
    for epoch in range(2):
        loader.set_epoch(epoch)
        print([(int(batch.frames.sum()), len(batch.video_id)) for batch in loader])
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_there_may_be_more_shards_than_open_files(shard_records, tmp_path, workers):
    """150 shards, of which 64 may be open beside the 256 files that are left to the rest."""
    first = shard_records[0]
    for number in range(150):
        shutil.copy(first.shard, tmp_path / f"{number}.lmdb")
    (tmp_path / "many.py").write_text(MANY_SHARDS)
    said = []
    for limit in (320, 4096):
        words = [str(tmp_path / "many.py"), str(tmp_path), first.video_id, "150", str(workers), str(limit)]
        done = subprocess.run([sys.executable, *words], env=environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert said[0] == said[1] and said[0].count("(") == 2 * 38


def test_readers_whose_map_was_closed_open_it_again(shard_records):
    readers = [ShardReader(path) for path in sorted({record.shard for record in shard_records})]
    before = [[reader.frames(name, [0, 3]) for name in reader.video_ids] for reader in readers]
    held = readers[0].runs(readers[0].video_ids[0], [0, 3], 1)[0]
    shards._close_oldest(1)
    shards._close_oldest(1)
    for _, image in held:  # what is being read stays open
        assert image.any()
    for reader, frames in zip(readers, before, strict=True):
        assert "_map" not in vars(reader) or reader is not readers[0]
        for name, expected in zip(reader.video_ids, frames, strict=True):
            np.testing.assert_array_equal(reader.frames(name, [0, 3]), expected)


@pytest.mark.parametrize("spare", range(4))
def test_a_worker_that_cannot_open_a_file_more_ends_the_loader(shard_records, spare):
    loader = train_loader(shard_records * 20, workers=1, **TRAIN)
    batches = iter(loader)
    next(batches)
    (worker,) = workers(loader)
    limit = psutil.Process(worker).num_fds() + spare
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (limit, limit))
    try:
        for batch in batches:
            assert batch.frames.any()
    except V4DError as error:
        assert "Too many open files" in str(error) or "its last words are above" in str(error)
