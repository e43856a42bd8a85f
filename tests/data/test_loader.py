"""The loader against reader, pickers and PIL; the same for any workers, ranks and place to resume from."""

import itertools
import math
import os
import pickle
import signal
import struct
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import lmdb
import numpy as np
import psutil
import pytest
import torch
from torch.utils.data import DataLoader

from tests.support.shards import jpegs, write_records, write_shard
from v4d.config import CropConfig
from v4d.data import batch as batches
from v4d.data import loader, sampling
from v4d.data import transforms as augment
from v4d.data.batch import Batch, normalise, prefetch
from v4d.data.batch_sampler import Pick, Share
from v4d.data.dataset import TrainSamples, VideoRecord, VideoTable, ViewSpec
from v4d.data.loader import eval_loader, train_loader
from v4d.data.sampling import ClipSpec
from v4d.data.shard_format import seal
from v4d.data.shards import ShardReader
from v4d.errors import V4DError
from v4d.models.base import InputSpec

CROP = CropConfig(kind="multi_scale", size=40, jitter=(64, 80), flip=0.5)
CLIP = ClipSpec(units=3, frames=4, stride=2)
TRAIN = {"clip": CLIP, "crop": CROP, "batch_size": 4, "seed": 5}
EVAL = {"clip": CLIP, "views": ViewSpec(48), "batch_size": 4}


def showing(*args, **views) -> dict:
    """`EVAL` with other views."""
    return EVAL | {"views": ViewSpec(*args, **views)}


@pytest.fixture(scope="module")
def shard_records(tmp_path_factory) -> list[VideoRecord]:
    """Fifteen videos of 40 frames, 72x64, in three shards."""
    return write_records(tmp_path_factory.mktemp("shards"))


def epoch_of(batches, epoch: int = 0, start_step: int = 0) -> list[Batch]:
    batches.set_epoch(epoch, start_step)
    return list(batches)


def by_id(batches: list[Batch]) -> dict[str, torch.Tensor]:
    return {
        video_id: frames
        for batch in batches
        for video_id, frames in zip(batch.video_id, batch.frames, strict=True)
    }


def same(left: list[Batch], right: list[Batch]) -> bool:
    return len(left) == len(right) and all(
        a.video_id == b.video_id
        and torch.equal(a.frames, b.frames)
        and torch.equal(a.weight, b.weight)
        and torch.equal(a.class_index, b.class_index)
        for a, b in zip(left, right, strict=True)
    )


def test_a_training_batch_is_what_reader_and_pickers_say(shard_records):
    batches = epoch_of(train_loader(shard_records, **TRAIN), epoch=2)
    records = {record.video_id: record for record in shard_records}
    seen = []
    for batch in batches:
        assert batch.frames.shape == (len(batch), 3, 4, 40, 40, 3)
        assert (batch.frames.dtype, batch.class_index.dtype, batch.weight.dtype) == (
            torch.uint8,
            torch.int64,
            torch.float32,
        )
        assert (batch.weight == 1).all()
        for video_id, frames, class_index in zip(
            batch.video_id, batch.frames, batch.class_index, strict=True
        ):
            record = records[video_id]
            assert class_index == record.class_index
            generator = np.random.default_rng([5, 2, *video_id.encode()])
            indices = sampling.train_indices(40, 3, 4, 2, generator)
            change = augment.pick(CROP, 64, 72, generator)
            whole = torch.from_numpy(ShardReader(record.shard).frames(video_id, indices.reshape(-1)))
            assert torch.equal(frames.reshape(12, 40, 40, 3), augment.apply(whole, change))
            seen.append(video_id)
    assert sorted(seen) == sorted(records)


def test_short_videos_that_repeat_frames_are_the_same_from_the_loader(tmp_path):
    write_shard(tmp_path / "s.lmdb", {"a": jpegs(1), "b": jpegs(5)})
    records = [
        VideoRecord("a", 0, str(tmp_path / "s.lmdb"), 1),
        VideoRecord("b", 1, str(tmp_path / "s.lmdb"), 5),
    ]
    for batch in eval_loader(records, **showing(48, crops=3)):
        for video_id, frames in zip(batch.video_id, batch.frames, strict=True):
            count = {"a": 1, "b": 5}[video_id]
            indices = sampling.eval_indices(count, 3, 4, 2).reshape(-1)
            whole = ShardReader(tmp_path / "s.lmdb").frames(video_id, indices).reshape(3, 4, 64, 72, 3)
            for view, left in enumerate((0, 12, 24)):
                assert (frames[view].numpy() == whole[:, :, 8:56, left : left + 48]).all()


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(shard_records, workers):
    alone, together = (
        train_loader(shard_records, **TRAIN),
        train_loader(shard_records, **TRAIN, workers=workers),
    )
    for epoch in (0, 1):  # the workers live on
        assert same(epoch_of(alone, epoch), epoch_of(together, epoch))
    assert same(
        list(eval_loader(shard_records, **EVAL)), list(eval_loader(shard_records, **EVAL, workers=workers))
    )


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_samples_work_in_workers_of_any_kind(shard_records, start):
    samples = TrainSamples(VideoTable(shard_records), CLIP, CROP, 5)
    picks = [[Pick(0, 1), Pick(0, 7)], [Pick(0, 14)]]
    expected = [samples.__getitems__(batch) for batch in picks]  # its readers are open now
    found = DataLoader(
        samples,
        batch_sampler=picks,
        collate_fn=loader._as_it_is,
        num_workers=1,
        multiprocessing_context=start,
    )
    assert same(list(found), expected)


def test_a_video_does_not_depend_on_its_neighbours_rank_or_batch(shard_records):
    whole = by_id(epoch_of(train_loader(shard_records, **TRAIN), 1))
    few = by_id(epoch_of(train_loader(shard_records[3:9][::-1], **(TRAIN | {"batch_size": 1})), 1))
    ranks = [train_loader(shard_records, **TRAIN, share=Share(rank, 2), locality=1) for rank in (0, 1)]
    for part in (few, *(by_id(epoch_of(rank, 1)) for rank in ranks)):
        for video_id, frames in part.items():
            assert torch.equal(frames, whole[video_id])


def test_epochs_and_seeds_differ(shard_records):
    first, second = (by_id(epoch_of(train_loader(shard_records, **TRAIN), epoch)) for epoch in (0, 1))
    other = by_id(epoch_of(train_loader(shard_records, **(TRAIN | {"seed": 6})), 0))
    assert sum(torch.equal(first[v], second[v]) for v in first) <= 1
    assert sum(torch.equal(first[v], other[v]) for v in first) <= 1


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_in_mid_epoch_goes_on_with_the_very_next_sample(shard_records, workers):
    batches = train_loader(shard_records, **(TRAIN | {"batch_size": 2}), workers=workers)
    whole = epoch_of(batches, 1)
    for start in (0, 3, len(whole) - 1, len(whole)):
        assert same(epoch_of(batches, 1, start), whole[start:])
        assert len(batches) == len(whole)
    taken = iter(batches)
    batches.set_epoch(1)
    next(iter(batches))  # given up in the middle, with batches on their way
    del taken
    assert same(epoch_of(batches, 1), whole)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_ranks_see_every_video_once(shard_records, world_size):
    ranks = [
        train_loader(shard_records, **TRAIN, share=Share(rank, world_size)) for rank in range(world_size)
    ]
    epochs = [epoch_of(rank) for rank in ranks]
    assert {len(batches) for batches in epochs} == {len(ranks[0])}
    seen = [v for batches in epochs for batch in batches for v in batch.video_id if v]
    assert sorted(seen) == sorted(record.video_id for record in shard_records)
    tested = [eval_loader(shard_records, **EVAL, share=Share(rank, world_size)) for rank in range(world_size)]
    seen = [v for rank in tested for batch in rank for v in batch.video_id]
    assert seen == [record.video_id for record in shard_records]
    assert [len(list(rank)) for rank in tested] == [len(rank) for rank in tested]


def test_weights_make_the_mean_over_all_ranks_exact(shard_records):
    """Five ranks share out 15 videos, one each: 3 steps; of 7 videos two steps, the second with fillers."""
    records = shard_records[:7]
    steps = [
        epoch_of(train_loader(records, **(TRAIN | {"batch_size": 1}), share=Share(rank, 5)))
        for rank in range(5)
    ]
    total = sum(float(b.weight.sum()) for rank in steps for b in rank)
    classes = sum(float((b.weight * b.class_index).sum()) for rank in steps for b in rank)
    assert (total, classes) == (7, sum(record.class_index for record in records))
    fillers = [b for rank in steps for b in rank if "" in b.video_id]
    assert len(fillers) == 3
    for batch in fillers:
        assert (batch.weight.tolist(), batch.skipped) == ([0.0], [])
        assert batch.frames.float().std() > 1  # a real video: batch norm sees nothing odd


def test_test_batches_have_views_and_validation_has_none(shard_records):
    (batch, *_) = eval_loader(shard_records, **showing(48, crops=3))
    assert batch.frames.shape == (4, 3, 3, 4, 48, 48, 3)
    (middle, *_) = eval_loader(shard_records, **showing(48, crops=1))
    assert torch.equal(middle.frames[:, 0], batch.frames[:, 1])
    (flat, *_) = eval_loader(shard_records, **showing(48, axis=False))
    assert torch.equal(flat.frames, middle.frames[:, 0])
    (whole, *_) = eval_loader(shard_records, **showing(None, crops=3))
    assert whole.frames.shape[-3:] == (64, 64, 3)
    (scaled, *_) = eval_loader(shard_records, **showing(96, crops=3, short_side=96))
    assert scaled.frames.shape[-3:] == (96, 96, 3)
    (centred, *_) = eval_loader(shard_records, **showing(48, sampling="centred"))
    assert not torch.equal(centred.frames, middle.frames)
    with pytest.raises(ValueError, match="not 'center'"):
        ViewSpec(48, sampling="center")
    with pytest.raises(ValueError, match="3 crops need"):
        ViewSpec(48, crops=3, axis=False)


def test_frames_of_different_sizes(tmp_path):
    write_shard(tmp_path / "a.lmdb", {"wide": jpegs(9, width=90, height=48)}, size=(90, 48))
    write_shard(tmp_path / "b.lmdb", {"square": jpegs(9, width=48, height=48)}, size=(48, 48))
    write_shard(tmp_path / "c.lmdb", {"tall": jpegs(9, width=60, height=90)}, size=(60, 90))
    records = [
        VideoRecord(v, 0, str(tmp_path / f"{s}.lmdb"), 9)
        for v, s in (("wide", "a"), ("square", "b"), ("tall", "c"))
    ]
    (batch,) = eval_loader(records, **showing(48, crops=3))
    assert batch.frames.shape[:2] == (3, 3)
    assert torch.equal(batch.frames[1, 0], batch.frames[1, 2])  # no room: one crop stands for all
    (square,) = eval_loader(records[1:2], **showing(48, crops=3))
    assert square.frames.shape[1] == 1
    with pytest.raises(V4DError, match=r"short sides of \[48, 60\]: set testing.crop_size"):
        list(eval_loader(records, **showing(None)))
    with pytest.raises(V4DError, match="a crop of 64 does not fit frames of 90x48"):
        list(eval_loader(records, **showing(64)))
    assert len(list(train_loader(records, **TRAIN))) == 1


@pytest.fixture
def shard_with_a_bad_video(tmp_path) -> list[VideoRecord]:
    path = tmp_path / "part_0.lmdb"
    write_shard(path, {name: jpegs(20, first=30 * n) for n, name in enumerate(("good_1", "bad", "good_2"))})
    path.write_bytes(path.read_bytes()[:-60])
    with (
        lmdb.open(str(path), subdir=False, lock=False, map_size=1 << 28) as env,
        env.begin(write=True) as transaction,
    ):
        for frame in range(20):
            transaction.put(b"1" + struct.pack(">II", 1, frame), b"no picture")
    seal(path)
    return [VideoRecord(v, n, str(path), 20) for n, v in enumerate(("good_1", "bad", "good_2"))]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_frame_stops_by_default_and_is_named(shard_with_a_bad_video, workers):
    for build, options in ((train_loader, TRAIN), (eval_loader, EVAL)):
        with pytest.raises(V4DError, match=r"part_0.lmdb: video bad, source frame \d+: "):
            list(build(shard_with_a_bad_video, **options, workers=workers))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_video_may_be_dropped_from_the_weight_and_is_counted(shard_with_a_bad_video, workers):
    (batch,) = train_loader(shard_with_a_bad_video, **TRAIN, workers=workers, bad_frames="skip_video")
    weights = dict(zip(batch.video_id, batch.weight.tolist(), strict=True))
    assert weights == {"good_1": 1.0, "bad": 0.0, "good_2": 1.0}
    assert (batch.frames[batch.video_id.index("bad")] == 0).all()
    (line,) = batch.skipped
    assert "video bad, source frame" in line
    good = by_id(list(train_loader(shard_with_a_bad_video[::2], **TRAIN)))
    assert all(torch.equal(by_id([batch])[v], good[v]) for v in ("good_1", "good_2"))
    with pytest.raises(ValueError, match="replace"):
        train_loader(shard_with_a_bad_video, **TRAIN, bad_frames="replace")


def test_what_contradicts_the_shard_stops_under_either_policy(shard_records):
    record = shard_records[0]
    for wrong, words in (
        (replace(record, num_frames=41), "40 frames in .* but 41 in the manifest"),
        (replace(record, video_id="nobody"), "has no video nobody"),
        (replace(record, shard="/nowhere/part_0.lmdb"), "cannot open shard /nowhere/part_0.lmdb"),
    ):
        with pytest.raises(V4DError, match=words):
            list(train_loader([wrong], **TRAIN, bad_frames="skip_video"))
    with pytest.raises(V4DError, match="no videos"):
        train_loader([], **TRAIN)


def test_a_worker_that_dies_is_one_clear_error(shard_records):
    batches = train_loader(shard_records * 1, **(TRAIN | {"batch_size": 1}), workers=1)
    running = iter(batches)
    next(running)
    (worker,) = [p.pid for p in batches._data._iterator._workers]
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(V4DError, match=r"a loader worker died .*`v4d verify`"):
        list(running)


def test_workers_end_with_their_loader(shard_records):
    batches = train_loader(shard_records, **TRAIN, workers=2)
    next(iter(batches))
    workers = [psutil.Process(p.pid) for p in batches._data._iterator._workers]
    del batches  # no garbage collection: nothing may hold on to it
    assert not any(worker.is_running() for worker in workers)


def test_the_global_generators_are_left_alone(shard_records):
    torch.manual_seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    for workers in (0, 1):
        list(train_loader(shard_records, **TRAIN, workers=workers))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


def test_the_share_of_waiting_is_measured(shard_records, monkeypatch):
    """By a clock that moves by a second at each look: a batch takes one, its use the next three."""
    seconds = itertools.count()
    monkeypatch.setattr(loader, "time", SimpleNamespace(perf_counter=lambda: float(next(seconds))))
    batches = train_loader(shard_records, **TRAIN)
    assert batches.data_wait_fraction == 0
    for _ in range(2):  # an epoch begins with nothing
        for number, _ in enumerate(batches, 1):
            assert batches.data_wait_fraction == number / (4 * number - 2)
            next(seconds), next(seconds)
        last = len(batches) + 1
        assert batches.data_wait_fraction == last / (4 * last - 2)


@pytest.mark.parametrize("spec", [InputSpec(), InputSpec(mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 1.0))])
def test_normalise_is_the_usual_formula_as_a_view_of_channels_last_memory(spec):
    frames = torch.randint(0, 256, (2, 3, 2, 4, 10, 12, 3), dtype=torch.uint8)
    mean, std = (torch.tensor(v)[:, None, None, None] for v in (spec.mean, spec.std))
    found = normalise(frames, spec)
    assert found.shape == (2, 3, 2, 3, 4, 10, 12)
    expected = (frames.movedim(-1, -4).double() / 255 - mean) / std
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=0)
    assert found.movedim(-4, -1).is_contiguous()
    assert (
        found.flatten(0, 2)
        .permute(0, 2, 1, 3, 4)
        .flatten(0, 1)
        .is_contiguous(memory_format=torch.channels_last)
    )
    half = normalise(frames, spec, torch.bfloat16)
    torch.testing.assert_close(half, found.bfloat16())


def test_batches_move_whole(shard_records):
    batches = list(train_loader(shard_records, **TRAIN))
    moved = [batch.to("cpu") for batch in batches]
    assert same(moved, batches)
    assert same(list(prefetch(iter(batches), "cpu")), batches)


@pytest.mark.gpu
def test_batches_are_copied_beside_the_computation(shard_records):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    batches = list(train_loader(shard_records, **TRAIN, workers=2))
    assert all(batch.frames.is_pinned() for batch in batches)
    for found, batch in zip(prefetch(iter(batches), "cuda"), batches, strict=True):
        host = normalise(batch.frames, InputSpec())
        torch.testing.assert_close(normalise(found.frames, InputSpec()).cpu(), host)


def test_records_by_column_are_the_records_and_small(shard_records):
    table = VideoTable(shard_records)
    assert [table[n] for n in range(len(table))] == shard_records
    many = [VideoRecord(f"{n:011d}", n % 400, f"/data/part_{n // 1000}.lmdb", 300) for n in range(20_000)]
    assert len(pickle.dumps(VideoTable(many))) < 40 * len(many)


def test_a_worker_imports_only_what_it_needs(shard_records):
    """What the fork server imports, which every worker starts with."""
    heavy = {
        "mlflow",
        "pandas",
        "pyarrow",
        "snakemake",
        "matplotlib",
        "torchvision",
        "av",
        "decord",
        "sklearn",
    }
    code = f"import sys, v4d.data.loader; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_worker_keeps_its_memory(shard_records):
    """Memory after many samples, but for the shards' own pages, is what it was after few."""
    batches = train_loader(shard_records, **TRAIN, workers=1)
    sizes = []
    for epoch in range(80):
        epoch_of(batches, epoch)
        if epoch in (19, 79):
            (worker,) = [p.pid for p in batches._data._iterator._workers]
            used = psutil.Process(worker).memory_info()
            sizes.append(used.rss - used.shared)
    assert sizes[1] - sizes[0] < 5e6  # 900 samples; one leaked frame each would be 12 MB


def test_steps_are_a_multiple_of_accumulate(shard_records):
    batches = train_loader(shard_records, **TRAIN, accumulate=3)
    assert len(batches) == math.ceil(15 / 12) * 3 == len(epoch_of(batches))


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_decoded_by_the_device_are_those_decoded_by_the_host(shard_records, workers):
    """Here the device is the CPU: its JPEG decoder is the same library, so that all else shows."""
    check_device_decoding(shard_records, workers, "cpu", levels=0)


@pytest.mark.gpu
def test_a_gpu_decodes_jpegs(shard_records):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    check_device_decoding(shard_records, 1, "cuda", levels=24)


def check_device_decoding(records: list[VideoRecord], workers: int, device: str, levels: int) -> None:
    for build, options in ((train_loader, TRAIN), (eval_loader, showing(48, crops=3)), (eval_loader, EVAL)):
        hosts = list(build(records, **options))
        devices = list(prefetch(build(records, **options, workers=workers, decode_on="device"), device))
        assert len(hosts) == len(devices)
        for host, found in zip(hosts, devices, strict=True):
            assert (found.video_id, found.frames.shape) == (host.video_id, host.frames.shape)
            assert found.frames.device.type == device
            assert torch.equal(found.weight.cpu(), host.weight)
            difference = (found.frames.cpu().int() - host.frames.int()).abs()
            assert difference.max() <= levels
            assert difference.float().mean() <= 1


def test_a_bad_frame_under_device_decoding(shard_with_a_bad_video):
    with pytest.raises(V4DError, match="video bad: "):
        list(prefetch(train_loader(shard_with_a_bad_video, **TRAIN, decode_on="device"), "cpu"))
    skipping = train_loader(shard_with_a_bad_video, **TRAIN, decode_on="device", bad_frames="skip_video")
    (batch,) = prefetch(skipping, "cpu")
    (host,) = train_loader(shard_with_a_bad_video, **TRAIN, bad_frames="skip_video")
    assert torch.equal(batch.frames, host.frames)
    assert torch.equal(batch.weight, host.weight)
    (line,) = batch.skipped
    assert "video bad" in line


def test_a_device_that_decodes_nothing_is_an_error_and_no_reason_to_drop_videos(shard_records):
    skipping = train_loader(shard_records, **TRAIN, decode_on="device", bad_frames="skip_video")
    batch = next(iter(skipping))
    jpegs = batch.encoded.data.split([length for lengths in batch.encoded.lengths for length in lengths])
    with pytest.raises(V4DError, match="cuda:99 decodes no JPEG: "):
        batches._decode([[jpeg] for jpeg in jpegs], torch.device("cuda:99"))


def test_resizing_in_floats_is_resizing_in_bytes_to_a_level():
    frames = torch.randint(0, 256, (2, 3, 60, 80), dtype=torch.uint8).contiguous(
        memory_format=torch.channels_last
    )
    for size in ([40, 40], [90, 90]):
        out = torch.empty((2, *size, 3), dtype=torch.uint8)
        augment._resize(frames.permute(0, 2, 3, 1), out)
        floats = augment._resized_in_floats(frames, size).permute(0, 2, 3, 1)
        assert (floats - out).abs().max() <= 1.01
