"""Shards against plain lmdb and PIL; what is refused; what processes and threads may do with a reader."""

import hashlib
import io
import json
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import lmdb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.support.shards import decoded_sum, jpegs, picture, pil_decode, write_shard
from v4d.data import shard_format, shard_writer, shards
from v4d.data.shards import BadFrameError, ShardHeader, ShardReader, ShardWriter
from v4d.errors import V4DError


@pytest.fixture
def shard_path(tmp_path):
    return tmp_path / "part_0.lmdb"


def seal_by_hand(path) -> None:
    """The seal as the format's description has it, without our own code."""
    data = path.read_bytes()
    body = b"V4DSHARD" + struct.pack(">IIQ", 1, zlib.crc32(data[: 128 * 1024]), len(data))
    body += hashlib.sha256(data).digest()
    with path.open("ab") as file:
        file.write(body + struct.pack(">I", zlib.crc32(body)))


def names_in(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def edit(path, change) -> None:
    """Change the records of a finished shard, and seal it again."""
    path.write_bytes(path.read_bytes()[:-60])
    with (
        lmdb.open(str(path), subdir=False, lock=False, map_size=1 << 28) as env,
        env.begin(write=True) as transaction,
    ):
        change(transaction)
    seal_by_hand(path)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_frames_are_what_pil_decodes_whatever_is_asked_for(data, tmp_path_factory):
    width, height = data.draw(st.integers(1, 90), "width"), data.draw(st.integers(1, 70), "height")
    stride = data.draw(st.integers(1, 4), "stride")
    counts = data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=4), "counts")
    path = tmp_path_factory.mktemp("law") / "part_0.lmdb"
    videos = {}
    with ShardWriter(path, ShardHeader(size=(width, height), quality=90, stride=stride)) as writer:
        for number, count in enumerate(counts):
            frames = jpegs(-(-count // stride), first=30 * number, width=width, height=height)
            videos[f"v-{number}_"] = (count, frames)
            shape = {"num_frames": count, "fps": 25.0, "size": (width, height), "source_size": (9, 9)}
            writer.add(f"v-{number}_", frames, class_index=number, **shape)
    reader = ShardReader(path)
    assert reader.video_ids == list(videos)
    for video_id, (count, frames) in videos.items():
        assert reader.num_frames(video_id) == count
        indices = data.draw(st.lists(st.integers(0, count - 1), max_size=12), "indices")
        found = reader.frames(video_id, indices)
        assert found.shape == (len(indices), height, width, 3)
        assert found.dtype == np.uint8
        for image, index in zip(found, indices, strict=True):
            assert (image == pil_decode(frames[index // stride])).all()
        assert reader.jpegs(video_id, indices) == [frames[index // stride] for index in indices]
        pieces = np.zeros_like(found)
        runs, repeats = reader.runs(video_id, indices, data.draw(st.integers(1, 5), "run"))
        for first, images in runs:
            pieces[first : first + len(images)] = images
        for place, source in repeats:
            pieces[place] = pieces[source]
        assert (pieces == found).all()


def test_plain_lmdb_reads_a_shard_by_its_description(shard_path):
    videos = {"b": jpegs(4), "-a_": jpegs(3, first=50)}
    write_shard(shard_path, videos, stride=2)
    with (
        lmdb.open(str(shard_path), subdir=False, lock=False, readonly=True) as env,
        env.begin() as transaction,
    ):
        records = dict(transaction.cursor())
    header = json.loads(records.pop(b"0"))
    assert header["format"] == "v4d-frames"
    assert (header["version"], header["size"], header["stride"]) == (1, [72, 64], 2)
    assert json.loads(records.pop(b"4")) == {
        "videos": 2,
        "frames": 7,
        "bytes": sum(len(j) for frames in videos.values() for j in frames),
    }
    for number, (video_id, frames) in enumerate(videos.items()):
        video = json.loads(records.pop(b"3" + video_id.encode()))
        assert (video["number"], video["num_frames"]) == (number, 2 * len(frames))
        assert records.pop(b"2" + struct.pack(">I", number)) == struct.pack(
            f">{len(frames)}I", *map(zlib.crc32, frames)
        )
        for frame, jpeg in enumerate(frames):
            assert records.pop(b"1" + struct.pack(">II", number, frame)) == jpeg
    assert records == {}


def test_a_shard_written_by_plain_lmdb_and_pil_is_read(shard_path):
    pictures = [picture(n, 50, 30) for n in range(3)]
    encoded = []
    for image in pictures:
        Image.fromarray(image).save(buffer := io.BytesIO(), "JPEG", quality=92)
        encoded.append(buffer.getvalue())
    video = {"number": 0, "class_index": 7, "num_frames": 3, "fps": 12.5, "width": 50, "height": 30}
    header = {"format": "v4d-frames", "version": 1, "size": None, "quality": 92, "subsampling": "4:2:0"}
    with lmdb.open(str(shard_path), subdir=False, lock=False) as env, env.begin(write=True) as transaction:
        transaction.put(b"0", json.dumps(header | {"stride": 1, "decoder": "", "encoder": "PIL"}).encode())
        for number, jpeg in enumerate(encoded):
            transaction.put(b"1" + struct.pack(">II", 0, number), jpeg)
        transaction.put(b"2" + struct.pack(">I", 0), struct.pack(">3I", *map(zlib.crc32, encoded)))
        transaction.put(b"3x", json.dumps(video | {"source_width": 50, "source_height": 30}).encode())
        transaction.put(
            b"4", json.dumps({"videos": 1, "frames": 3, "bytes": sum(map(len, encoded))}).encode()
        )
    seal_by_hand(shard_path)
    reader = ShardReader(shard_path)
    assert (reader.video_ids, reader.video("x").class_index, reader.header.encoder) == (["x"], 7, "PIL")
    assert (reader.frames("x", [2, 0]) == [pil_decode(encoded[2]), pil_decode(encoded[0])]).all()


def test_the_map_grows_without_losing_a_transaction(shard_path, monkeypatch):
    monkeypatch.setattr(shard_writer, "_FIRST_MAP_BYTES", 1 << 15)
    videos = {f"v{n}": jpegs(20, first=n) for n in range(12)}
    reader = write_shard(shard_path, videos)
    assert shard_path.stat().st_size > 8 << 15
    for video_id, frames in videos.items():
        assert reader.jpegs(video_id, range(20)) == frames


def test_a_video_may_not_come_twice_or_contradict_the_header(shard_path):
    shape = {"class_index": 0, "fps": 25.0, "source_size": (72, 64)}
    with ShardWriter(shard_path, ShardHeader(size=(72, 64), quality=90, stride=2)) as writer:
        writer.add("v", jpegs(3), num_frames=5, size=(72, 64), **shape)
        with pytest.raises(V4DError, match="v comes twice"):
            writer.add("v", jpegs(3), num_frames=5, size=(72, 64), **shape)
        with pytest.raises(ValueError, match="3 frames for 9"):
            writer.add("w", jpegs(3), num_frames=9, size=(72, 64), **shape)
        with pytest.raises(ValueError, match="shard of"):
            writer.add("w", jpegs(3), num_frames=5, size=(64, 64), **shape)
    assert ShardReader(shard_path).video_ids == ["v"]


def test_an_error_while_writing_leaves_what_was_there(shard_path):
    write_shard(shard_path, {"old": jpegs(2)})
    with (
        pytest.raises(RuntimeError, match="stop"),
        ShardWriter(shard_path, ShardHeader((72, 64), 90)) as writer,
    ):
        shape = {"fps": 25.0, "size": (72, 64), "source_size": (72, 64)}
        writer.add("new", jpegs(2), class_index=0, num_frames=2, **shape)
        raise RuntimeError("stop")
    assert names_in(shard_path.parent) == ["part_0.lmdb"]
    assert ShardReader(shard_path).video_ids == ["old"]


def test_a_second_writer_refuses_and_the_first_goes_on(shard_path):
    with ShardWriter(shard_path, ShardHeader((72, 64), 90)) as first:
        with (
            pytest.raises(V4DError, match="another process is writing"),
            ShardWriter(shard_path, first.header),
        ):
            pass
        shape = {"fps": 25.0, "size": (72, 64), "source_size": (72, 64)}
        first.add("v", jpegs(2), class_index=0, num_frames=2, **shape)
    assert ShardReader(shard_path).video_ids == ["v"]


def test_what_a_killed_writer_left_is_cleared(shard_path, shard_good):
    """Its records would otherwise be in the way of the new ones, or end up among them."""
    leftover = shard_path.with_name(".part_0.lmdb.part")
    for left in (shard_good.read_bytes()[:-60], b"x" * 100_000):
        leftover.write_bytes(left)
        reader = write_shard(shard_path, {"new": jpegs(2)})
        shard_format.check_seal(shard_path, whole=True)
        assert reader.video_ids == ["new"]
        assert names_in(shard_path.parent) == ["part_0.lmdb"]


def test_a_full_disk_keeps_the_old_shard_and_says_so(shard_path):
    write_shard(shard_path, {"old": jpegs(2)})
    messages = multiprocessing.get_context("fork").SimpleQueue()

    def write_too_much() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
        try:
            write_shard(shard_path, {f"v{n}": jpegs(30) for n in range(30)})
        except BaseException as error:
            messages.put(f"{type(error).__name__}: {error}")
        else:
            messages.put("nothing was raised")

    child = multiprocessing.get_context("fork").Process(target=write_too_much)
    child.start()
    message = messages.get()
    child.join()
    assert message.startswith(f"V4DError: cannot write {shard_path}: ")
    assert names_in(shard_path.parent) == ["part_0.lmdb"]
    assert ShardReader(shard_path).video_ids == ["old"]


def test_no_kill_of_the_writer_leaves_a_file_that_opens_as_finished(shard_path):
    """Killed with -9 at 30 moments spread over all it does: what opens afterwards is whole."""
    contents = {f"v{n}": jpegs(12, first=n) for n in range(40)}
    rng = random.Random(0)
    finished = unfinished = 0
    for moment in range(30):
        if moment % 5 == 0:
            shard_path.unlink(missing_ok=True)
        child, events = os.pipe(), len(contents) + 1
        pid = os.fork()
        if pid == 0:
            write_step_by_step(shard_path, contents, child[1])
        os.close(child[1])
        last = rng.randint(0, events)
        for _ in range(last):  # a byte a video, one before the seal
            os.read(child[0], 1)
        if rng.random() < 0.5:
            time.sleep(rng.random() * 3e-3)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(child[0])
        for path in (shard_path, shard_path.with_name(".part_0.lmdb.part")):
            try:
                reader = ShardReader(path)
            except V4DError:
                unfinished += 1
                continue
            finished += 1
            shard_format.check_seal(path, whole=True)
            assert {v: reader.jpegs(v, range(12)) for v in reader.video_ids} == contents
    assert finished + unfinished == 60
    write_shard(shard_path, contents)
    assert names_in(shard_path.parent) == ["part_0.lmdb"]  # and what the dead left is gone


def write_step_by_step(path, contents, pipe: int) -> None:
    try:
        shape = {"fps": 25.0, "size": (72, 64), "source_size": (72, 64)}
        with ShardWriter(path, ShardHeader((72, 64), 90)) as writer:
            for video_id, frames in contents.items():
                writer.add(video_id, frames, class_index=0, num_frames=len(frames), **shape)
                os.write(pipe, b".")
            os.write(pipe, b".")
    finally:
        os.write(pipe, b"." * 64)
        os._exit(0)


@pytest.fixture(scope="module")
def shard_good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "part_0.lmdb"
    write_shard(path, {f"v{n}": jpegs(25, first=40 * n) for n in range(6)})
    return path


@pytest.mark.parametrize("number", range(30))
def test_a_truncated_shard_is_refused(shard_good, shard_path, number):
    data = shard_good.read_bytes()
    length = random.Random(number).randrange(len(data))
    shard_path.write_bytes(data[:length])
    with pytest.raises(V4DError, match=r"part_0.lmdb is (truncated|empty)"):
        ShardReader(shard_path)


def test_what_is_no_finished_shard_is_refused_by_name(shard_good, shard_path):
    with pytest.raises(V4DError, match=r"cannot open shard .*part_0.lmdb: No such file"):
        ShardReader(shard_path)
    shard_path.write_bytes(b"")
    with pytest.raises(V4DError, match=r"part_0.lmdb is empty"):
        ShardReader(shard_path)
    shard_path.write_bytes(shard_good.read_bytes()[:-60])
    with pytest.raises(V4DError, match="was never finished"):
        ShardReader(shard_path)
    shard_path.write_bytes(b"x" * 5000 + shard_good.read_bytes()[-60:])
    with pytest.raises(V4DError, match="is damaged: 5000 bytes where"):
        ShardReader(shard_path)


def test_another_format_version_is_refused_by_name(shard_good, shard_path):
    data = shard_good.read_bytes()
    body = data[-60:-52] + struct.pack(">I", 2) + data[-48:-4]
    shard_path.write_bytes(data[:-60] + body + struct.pack(">I", zlib.crc32(body)))
    with pytest.raises(V4DError, match="format version 2; this program reads version 1"):
        ShardReader(shard_path)


@pytest.mark.parametrize("where", [0, 30, 4096 + 24, -60, -50, -30, -1])
def test_a_flipped_byte_in_lmdbs_head_or_in_the_seal_is_refused(shard_good, shard_path, where):
    data = bytearray(shard_good.read_bytes())
    data[where] ^= 1 << 3
    shard_path.write_bytes(data)
    with pytest.raises(V4DError, match=r"part_0.lmdb is (damaged|truncated)"):
        ShardReader(shard_path)


def test_a_bad_frame_is_named(shard_path):
    videos = {"missing": jpegs(4), "garbage": jpegs(4), "cut": jpegs(4), "small": jpegs(4), "good": jpegs(4)}
    write_shard(shard_path, videos, stride=3)

    def damage(transaction: lmdb.Transaction) -> None:
        assert transaction.delete(b"1" + struct.pack(">II", 0, 1))
        transaction.put(b"1" + struct.pack(">II", 1, 1), b"no picture at all")
        transaction.put(b"1" + struct.pack(">II", 2, 1), videos["cut"][1][:-400])
        transaction.put(b"1" + struct.pack(">II", 3, 1), jpegs(1, width=32, height=32)[0])

    edit(shard_path, damage)
    reader = ShardReader(shard_path)
    for video_id in ("missing", "garbage", "cut", "small"):
        assert len(reader.frames(video_id, [0, 11])) == 2
        with pytest.raises(BadFrameError, match=f"video {video_id}, source frame 3") as caught:
            reader.frames(video_id, [0, 4])
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert len(reader.frames("good", range(12))) == 12


def test_a_shard_that_vanished_before_its_first_use(shard_path):
    write_shard(shard_path, {"v": jpegs(1)})
    reader = ShardReader(shard_path)
    shard_path.unlink()
    with pytest.raises(V4DError, match=r"cannot open shard .*part_0.lmdb: No such file"):
        reader.frames("v", [0])


def test_frames_and_videos_that_are_not_there(shard_good):
    reader = ShardReader(shard_good)
    for index in (-1, 25):
        with pytest.raises(IndexError, match=f"frame {index} of video v0, which has 25"):
            reader.frames("v0", [0, index])
    for ask in (reader.num_frames, reader.checksums, lambda v: reader.frames(v, [0])):
        with pytest.raises(V4DError, match="has no video nobody"):
            ask("nobody")


def test_a_reader_pickles_as_its_path(shard_good):
    reader = ShardReader(shard_good)
    reader.frames("v0", [0])
    pickled = pickle.dumps(reader)
    assert len(pickled) < 500
    assert (pickle.loads(pickled).frames("v3", [7]) == reader.frames("v3", [7])).all()


@pytest.mark.parametrize("start", ["fork", "forkserver", "spawn"])
def test_a_reader_in_use_works_in_child_processes(shard_good, start):
    reader = ShardReader(shard_good)
    expected = [decoded_sum(reader, f"v{n}", 3 * n) for n in range(6)]
    context = multiprocessing.get_context(start)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        tasks = [pool.submit(decoded_sum, reader, f"v{n}", 3 * n) for n in range(6)]
        assert [task.result() for task in tasks] == expected
    assert decoded_sum(reader, "v0", 0) == expected[0]


def test_a_forked_child_goes_on_with_open_readers_and_cold_pages(shard_good, monkeypatch):
    monkeypatch.setattr(shards, "COLD_SECONDS", -1.0)  # every fetch counts as slow: threads do the rest
    reader = ShardReader(shard_good)
    before = reader.frames("v1", range(20))
    together = threading.Barrier(shards.READ_THREADS, timeout=60)
    list(
        shards._readers().map(lambda _: together.wait(), range(shards.READ_THREADS))
    )  # all threads are there
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)  # a child that took the parent's threads for its own would wait for ever
        os._exit(0 if (reader.frames("v1", range(20)) == before).all() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_only_what_is_cold_is_fetched_by_several_threads(shard_good, monkeypatch):
    reader = ShardReader(shard_good)
    reader.jpegs("v0", range(25))
    threads = set()
    get = shards._Map.get

    def seen(shard, key):
        threads.add(threading.current_thread().name)
        return get(shard, key)

    monkeypatch.setattr(shards._Map, "get", seen)
    monkeypatch.setattr(shards, "COLD_SECONDS", 60.0)
    warm = reader.jpegs("v0", range(25))
    assert threads == {threading.current_thread().name}
    monkeypatch.setattr(shards, "COLD_SECONDS", -1.0)
    assert reader.jpegs("v0", range(25)) == warm
    assert any(name.startswith("v4d-read") for name in threads)


def test_threads_share_a_reader(shard_good, monkeypatch):
    reader = ShardReader(shard_good)
    expected = [reader.frames(f"v{n % 6}", range(25)).tobytes() for n in range(12)]
    for limit in (shards.COLD_SECONDS, -1.0):
        monkeypatch.setattr(shards, "COLD_SECONDS", limit)
        with ThreadPoolExecutor(8) as pool:
            found = pool.map(lambda n: reader.frames(f"v{n % 6}", range(25)).tobytes(), range(12))
            assert list(found) == expected


def test_readers_of_one_file_share_its_map_and_one_made_anew_is_another(shard_path):
    old = write_shard(shard_path, {"old": jpegs(3)})
    assert old._map is ShardReader(shard_path)._map
    new = write_shard(shard_path, {"new": jpegs(3)})
    assert (old.video_ids, new.video_ids) == (["old"], ["new"])
    assert old.frames("old", [2]).shape == (1, 64, 72, 3)


def test_a_reader_gets_one_shard_or_the_other_while_it_is_written_anew(shard_path):
    expected = {}
    for name in "ab":
        expected[name] = jpegs(2, first=ord(name))
        write_shard(shard_path.with_name(name), {name: expected[name]})
    shutil.copy(shard_path.with_name("a"), shard_path)
    done = threading.Event()

    def write_anew() -> None:
        while not done.is_set():
            for name in "ba":
                shutil.copy(shard_path.with_name(name), shard_path.with_name("new"))
                shard_path.with_name("new").replace(shard_path)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write_anew)
        try:
            for _ in range(200):
                reader = ShardReader(shard_path)
                (name,) = reader.video_ids
                assert reader.jpegs(name, range(2)) == expected[name]
        finally:
            done.set()
        writing.result()


def test_a_shard_without_videos_is_a_shard(shard_path):
    reader = write_shard(shard_path, {})
    assert reader.video_ids == []
    assert reader.counts() == {"videos": 0, "frames": 0, "bytes": 0}


def test_a_storage_is_chosen_by_the_files_ending(shard_path, monkeypatch):
    write_shard(shard_path, {"v": jpegs(2)})
    assert shards.open_store(shard_path).video_ids == ["v"]
    other = shutil.copy(shard_path, shard_path.with_suffix(".other"))
    with pytest.raises(V4DError, match=r"frames are stored in files named \.lmdb"):
        shards.open_store(other)
    monkeypatch.setitem(shards.STORES, ".other", ShardReader)
    assert shards.open_store(other).num_frames("v") == 2


def test_readers_import_neither_torch_nor_tables():
    """What a process that only reads frames pays for."""
    heavy = {"torch", "pandas", "pyarrow", "mlflow", "av"}
    code = f"import sys, v4d.data.shards; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("free", "words"), [(300_000, "No space left on device"), (1 << 40, "mdb_txn_commit: Input/output error")]
)
def test_a_write_that_was_cut_short_is_a_full_disk_where_there_is_no_space(
    tmp_path, monkeypatch, free, words
):
    """LMDB says "Input/output error" for both; seen on a file system of 300 kB."""

    class Cut:
        def begin(self, write: bool) -> None:
            raise lmdb.Error("mdb_txn_commit: Input/output error")

        def close(self) -> None:
            pass

    monkeypatch.setattr(shard_writer, "free_bytes", lambda path: free)
    monkeypatch.setattr(ShardWriter, "_open", lambda self: Cut())
    with pytest.raises(V4DError) as told:
        ShardWriter(tmp_path / "part_0.lmdb", ShardHeader(size=(32, 32), quality=90))
    assert str(told.value) == f"cannot write {tmp_path / 'part_0.lmdb'}: {words}"
    assert not [*tmp_path.iterdir()]
