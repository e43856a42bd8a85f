"""`v4d verify`: whatever was changed on disk is found and named, and nothing crashes."""

import hashlib
import json
import random
import re
import shutil
from dataclasses import replace

import lmdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.damages import DAMAGES, DEEPER
from tests.support.project import assert_one_line_error, run, write_config
from tests.support.shards import jpegs, write_shard
from v4d import config
from v4d.data.shard_format import seal
from v4d.data.shards import ShardReader
from v4d.datasets.lockfile import LockEntry, LockFile
from v4d.errors import V4DError
from v4d.preprocessing import verify
from v4d.preprocessing.verify import Part, verify_dataset, verify_part
from v4d.utils.processes import run_in_children


@pytest.fixture
def shard_part(tmp_path) -> Part:
    """A part of four videos, 16 frames each, with its ledger."""
    names = ("part_0.lmdb", "part_0.parquet", "clips.tar", "clips.parquet")
    part = Part("train", "part_0", *(tmp_path / name for name in names))
    videos = {f"v{n}": jpegs(16, first=20 * n) for n in range(4)}
    write_shard(part.shard, videos)
    rows = [
        {"video_id": name, "class_index": n, "status": "ok", "num_frames": 16, "width": 72, "height": 64}
        for n, name in enumerate(videos)
    ]
    rows.append(rows[0] | {"video_id": "lost", "status": "missing", "num_frames": 0})
    pq.write_table(pa.Table.from_pylist(rows), part.ledger)
    return part


def reseal(part: Part, change) -> None:
    """Change LMDB's records and seal the file again: only frame by frame can that be found."""
    part.shard.write_bytes(part.shard.read_bytes()[:-60])
    with (
        lmdb.open(str(part.shard), subdir=False, lock=False, map_size=1 << 28) as env,
        env.begin(write=True) as transaction,
    ):
        change(transaction)
    seal(part.shard)


def test_what_is_whole_has_no_problems(shard_part):
    assert verify_part(shard_part) == []


def test_a_flipped_byte_anywhere_is_an_error_and_no_crash(shard_part):
    """Every kind of place: LMDB's meta pages, its tree, frames, slack between them, the seal."""
    good = shard_part.shard.read_bytes()
    rng = random.Random(0)
    places = [0, 17, 4096, len(good) - 1, len(good) - 30, *(rng.randrange(len(good)) for _ in range(40))]
    parts = []
    for number, place in enumerate(places):
        data = bytearray(good)
        data[place] ^= 1 << rng.randrange(8)
        part = replace(shard_part, shard=shard_part.shard.with_name(f"flipped_{number}.lmdb"))
        part.shard.write_bytes(data)
        parts.append(part)
    for part, outcome in zip(
        parts, run_in_children(verify_part, parts, processes=2, deadline=60), strict=True
    ):
        assert outcome.failure is None
        (problem,) = outcome.value
        assert str(part.shard) in problem
        assert "is damaged" in problem or "has no seal" in problem or "format version" in problem


def test_a_truncation_at_any_length_is_an_error_and_no_crash(shard_part):
    good = shard_part.shard.read_bytes()
    rng = random.Random(1)
    parts = []
    for number in range(30):
        part = replace(shard_part, shard=shard_part.shard.with_name(f"cut_{number}.lmdb"))
        part.shard.write_bytes(good[: rng.randrange(len(good))])
        parts.append(part)
    for outcome in run_in_children(verify_part, parts, processes=2, deadline=60):
        assert outcome.failure is None
        assert "truncated" in outcome.value[0] or "empty" in outcome.value[0]


def test_frames_are_held_against_their_checksums(shard_part):
    other = jpegs(1, first=500)[0]

    def swap(transaction: lmdb.Transaction) -> None:
        transaction.put(b"1" + (2).to_bytes(4, "big") + (5).to_bytes(4, "big"), other)

    reseal(shard_part, swap)
    assert any("video v2: its frames do not have their checksums" in p for p in verify_part(shard_part))


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (b"1" + (1).to_bytes(4, "big") + (3).to_bytes(4, "big"), "video v1, source frame 3: it is missing"),
        (b"2" + (1).to_bytes(4, "big"), "video v1: its frames do not have their checksums"),
        (b"3v1", "its closing record says"),
        (b"0", "it has no header"),
        (b"4", "it has no closing record"),
    ],
)
def test_a_record_that_is_missing_is_found(shard_part, key, words):
    reseal(shard_part, lambda transaction: transaction.delete(key))
    assert any(words in problem for problem in verify_part(shard_part))


@pytest.mark.parametrize("name", ["videos", "frames", "bytes"])
def test_the_closing_record_has_the_right_counts(shard_part, name):
    counts = ShardReader(shard_part.shard).counts()
    wrong = counts | {name: counts[name] + 1}
    reseal(shard_part, lambda transaction: transaction.put(b"4", json.dumps(wrong).encode()))
    (problem,) = verify_part(shard_part)
    assert f"'{name}': {counts[name]}" in problem
    assert "its closing record says" in problem


def test_two_videos_with_one_number_are_found(shard_part):
    def twice(transaction: lmdb.Transaction) -> None:
        transaction.put(b"3v1", transaction.get(b"3v0"))

    reseal(shard_part, twice)
    assert any("are not numbered from 0 to 3" in problem for problem in verify_part(shard_part))


def test_a_sample_of_frames_is_decoded(shard_part):
    """A frame that has its checksum and is no picture: what a broken encoder would leave."""
    broken = {f"v{n}": jpegs(16, first=20 * n) for n in range(4)} | {"v3": [b"no picture"] * 16}
    write_shard(shard_part.shard, broken)
    assert any("video v3, source frame" in problem for problem in verify_part(shard_part))


def test_ledger_and_shard_are_held_against_each_other(shard_part):
    rows = pq.read_table(shard_part.ledger).to_pylist()
    other = {"num_frames": 15, "class_index": 2, "width": 71, "height": 63}
    changed = [rows[0] | other, rows[1] | {"status": "corrupt"}, *rows[2:]]
    pq.write_table(pa.Table.from_pylist([*changed, rows[0] | {"video_id": "new"}]), shard_part.ledger)
    problems = verify_part(shard_part)
    assert any("its ledger differ in 2 videos: new, v1" in problem for problem in problems)
    assert any("video v0 has num_frames 16, its ledger says 15" in problem for problem in problems)
    assert any("video v0 has class_index 0, its ledger says 2" in problem for problem in problems)
    assert any("video v0 has width 72, its ledger says 71" in problem for problem in problems)
    assert any("video v0 has height 64, its ledger says 63" in problem for problem in problems)
    pq.write_table(pq.read_table(shard_part.ledger).drop_columns("status"), shard_part.ledger)
    (problem,) = verify_part(shard_part)
    assert f"ledger {shard_part.ledger} is damaged: it has no column status" in problem
    shard_part.ledger.unlink()
    (problem,) = verify_part(shard_part)
    assert f"cannot read ledger {shard_part.ledger}: no such file" in problem


def test_a_damaged_shard_of_a_data_set_is_named_and_made_anew_alone(tiny, monkeypatch):
    monkeypatch.chdir(tiny)
    settings = config.load("config.yaml")
    assert verify_dataset(settings, threads=2) == []
    assert "as they should be" in run("verify", "--config", "config.yaml", "--threads", 2, cwd=tiny).stdout

    folder = tiny / "data/tiny/frames"
    shard, others = folder / "train/part_1.lmdb", [folder / "train/part_0.lmdb", folder / "val/part_0.lmdb"]
    before = [path.stat() for path in others]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 4
    shard.write_bytes(data)
    problems = verify_dataset(settings)
    (problem,) = problems
    assert "train/part_1.lmdb is damaged" in problem
    done = run("verify", "--config", "config.yaml", cwd=tiny, check=False)
    assert "train/part_1.lmdb is damaged" in next(
        line for line in done.stderr.splitlines() if "error" in line
    )
    assert done.returncode == 1
    command = problem.partition("anew: v4d ")[2].replace("--config ...", "--config config.yaml")
    run(*command.split(), cwd=tiny)
    assert verify_dataset(settings) == []
    data[-1] ^= 4
    shutil.copy(shard, tiny / "whole.lmdb")
    shard.write_bytes(data)
    (tiny / "data/tiny/clips/train/part_1.tar").unlink()
    (problem,) = verify_dataset(settings)
    assert "anew: delete it and run snakemake, which makes its clips again" in problem
    (tiny / "whole.lmdb").replace(shard)
    assert [path.stat() for path in others] == before


def test_the_manifest_is_held_against_the_ledgers(tiny, monkeypatch):
    monkeypatch.chdir(tiny)
    settings = config.load("config.yaml")
    path = tiny / "data/tiny/manifest.parquet"
    rows = pq.read_table(path).to_pylist()
    good = [n for n, row in enumerate(rows) if row["status"] == "ok"]
    figures = ("num_frames", "class_index", "width", "height", "bytes")
    for name in figures:
        rows[good[0]][name] += 1
    del rows[good[1]]
    pq.write_table(pa.Table.from_pylist(rows), path)
    problems = verify_dataset(settings)
    assert any("manifest and ledgers differ in 1 videos" in problem for problem in problems)
    for name in figures:
        assert any(f"{rows[good[0]]['video_id']} has {name} {rows[good[0]][name]}, " in p for p in problems)
    assert all("`v4d manifest`" in problem for problem in problems)
    path.unlink()
    (problem,) = verify_dataset(settings)
    assert "no such file: data/tiny/manifest.parquet; run `v4d manifest` first" in problem


def test_a_damaged_manifest_or_ledger_is_a_problem_and_no_traceback(tiny, monkeypatch):
    monkeypatch.chdir(tiny)
    settings = config.load("config.yaml")
    parts = list(verify._parts(settings))
    rng = random.Random(0)
    for path in (tiny / "data/tiny/manifest.parquet", parts[0].ledger):
        good = path.read_bytes()
        found = []
        for place in (len(good) - 1, *(rng.randrange(len(good)) for _ in range(60))):
            data = bytearray(good)
            data[place] ^= 1 << rng.randrange(8)
            path.write_bytes(data)
            found.append(verify.verify_manifest(settings, parts))
        assert f"{path.name}" in found[0][0]  # the magic at its end
        assert sum(map(bool, found)) > 10  # a table has no checksums: what nobody reads may be anything
        path.write_bytes(good)


@pytest.mark.parametrize("damage", [*DAMAGES, *DEEPER])
def test_what_was_changed_is_found_and_every_line_says_what_mends_it(tiny, monkeypatch, damage):
    monkeypatch.chdir(tiny)
    name, harm, command = (DAMAGES | DEEPER)[damage]
    harm(tiny / "data/tiny" / name)
    problems = verify_dataset(config.load("config.yaml"))
    assert any(command in problem for problem in problems), problems
    assert all("v4d " in problem and "\n" not in problem for problem in problems), problems


@pytest.mark.slow
def test_what_verify_names_makes_it_right(tiny, monkeypatch):
    """The commands of the lines, run as they stand."""
    monkeypatch.chdir(tiny)
    settings = config.load("config.yaml")
    for damage in ("a class twice", "a row twice", "clips cut", "parts swapped"):
        name, harm, _ = (DAMAGES | DEEPER)[damage]
        harm(tiny / "data/tiny" / name)
        for _ in range(3):  # one file may hide what is wrong with another
            for line in verify_dataset(settings):
                backed = re.findall("`v4d ([^`]*)`", line) or [line.partition("anew: v4d ")[2]]
                for words in backed:
                    words = words.replace(" --config ...", "").split()
                    run(words[0], "--config", "config.yaml", *words[1:], cwd=tiny)
        assert verify_dataset(settings) == [], damage


def test_what_is_not_there_is_named(tiny, monkeypatch):
    monkeypatch.chdir(tiny)
    shutil.rmtree(tiny / "data/tiny/frames/val")
    problems = verify_dataset(config.load("config.yaml"))
    assert any("cannot open shard" in problem and "val/part_0.lmdb" in problem for problem in problems)
    assert_one_line_error(run("verify", "--config", "nowhere.yaml", cwd=tiny, check=False), "nowhere.yaml")


def test_kept_archives_are_checked_too(tiny, tmp_path):
    done = run("verify", "archives", "--config", "config.yaml", cwd=tiny)
    assert "none of its archives was downloaded" in done.stdout

    write_config(tmp_path, {"name": "k", "dataset": {"name": "k", "source": "kinetics"}})
    archive = tmp_path / "data/k/archives/val/part_0.tar.gz"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"an archive")
    entry = LockEntry(size=10, sha256=hashlib.sha256(b"an archive").hexdigest())
    LockFile(tmp_path / "data/k/archives.lock.json").record("val/part_0.tar.gz", entry)
    run("verify", "archives", "--config", "config.yaml", cwd=tmp_path)
    archive.write_bytes(b"An archive")
    done = run("verify", "archives", "--config", "config.yaml", cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "val/part_0.tar.gz: its sha256" in done.stderr


def test_a_reader_never_hands_out_another_picture_than_verify_would_pass(shard_part):
    """A shard that verifies gives the frames that were written."""
    assert verify_part(shard_part) == []
    reader = ShardReader(shard_part.shard)
    assert [reader.jpegs(f"v{n}", range(16)) for n in range(4)] == [jpegs(16, first=20 * n) for n in range(4)]
    with pytest.raises(V4DError):
        reader.frames("lost", [0])
