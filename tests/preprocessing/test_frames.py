"""The frames stage: real clips in, a shard and a ledger out, bad clips accounted for."""

import contextlib
import io
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.full_disk import disk_of
from tests.support.project import assert_one_line_error, run
from tests.support.shards import make_clip, pil_decode
from v4d import config
from v4d.config import FramesConfig
from v4d.data.shards import ShardReader
from v4d.errors import V4DError
from v4d.preprocessing.decode import ClipBytes, decode_clip
from v4d.preprocessing.frames import extract_part, tar_members

SETTINGS = FramesConfig(size=None, quality=90, stride=1, decoder="auto", timeout=60)


def row(video_id: str, class_index: int = 0, **values) -> dict:
    """A row of a clips ledger, with a column of our own at its end."""
    base = {
        "video_id": video_id,
        "label": "a label",
        "class_index": class_index,
        "split": "train",
        "part": "part_0",
    }
    base |= {"status": "ok", "reason": "", "num_frames": 1, "fps": 9.0, "width": 1, "height": 1, "bytes": 1}
    base |= {"source_width": 640, "source_height": 360, "seconds": 1.5, "replaced": False, "extra": "kept"}
    return base | values


class Stage:
    """A folder with the inputs of the stage, and its outputs."""

    def __init__(self, folder, clips: dict[str, bytes], rows: list[dict]):
        self.folder = folder
        clips_folder = folder / "data/x/clips/train"
        clips_folder.mkdir(parents=True)
        with tarfile.open(clips_folder / "part_0.tar", "w") as archive:
            for name, data in clips.items():
                for suffix, content in ((".mp4", data), (".cls", b"3")):
                    info = tarfile.TarInfo(name + suffix)
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
        pq.write_table(pa.Table.from_pylist(rows), clips_folder / "part_0.parquet")
        made = folder / "data/x/frames/train"
        self.shard, self.ledger = made / "part_0.lmdb", made / "part_0.parquet"

    def run(self, settings=SETTINGS, threads=2, max_bad_share=0.5) -> dict[str, int]:
        dataset = {"name": "x", "source": "synthetic", "max_bad_share": max_bad_share}
        document = config.resolve({"name": "x", "dataset": dataset})
        with contextlib.chdir(self.folder):
            return extract_part(config.build(document).dataset, settings, "train", "part_0", threads)

    def rows(self) -> dict[str, dict]:
        return {row["video_id"]: row for row in pq.read_table(self.ledger).to_pylist()}

    def outputs(self) -> list[str]:
        folder = self.shard.parent
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.fixture(scope="module")
def shard_clips(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("clips")
    sources = {
        "-first_1": ("testsrc2=size=96x64:rate=25", 21),
        "second": ("testsrc=size=80x60:rate=10", 14),
        "third": ("mandelbrot=size=64x48:rate=25", 8),
    }
    return {
        name: make_clip(folder / f"{name}.mp4", source=source, frames=frames).read_bytes()
        for name, (source, frames) in sources.items()
    }


def test_clips_become_a_shard_and_a_ledger(tmp_path, shard_clips):
    bad_before = row("lost", status="missing", reason="in no archive", num_frames=0)
    rows = [row("second", 5), bad_before, row("-first_1", 3), row("third", 7)]
    stage = Stage(tmp_path, shard_clips, rows)
    assert stage.run() == {"ok": 3, "missing": 1}
    reader, found = ShardReader(stage.shard), stage.rows()
    assert reader.video_ids == ["second", "-first_1", "third"]
    assert list(found) == ["second", "lost", "-first_1", "third"]
    assert found["lost"] == bad_before
    members = tar_members(tmp_path / "data/x/clips/train/part_0.tar")
    for name, frames, size, fps in (
        ("-first_1", 21, (96, 64), 25),
        ("second", 14, (80, 60), 10),
        ("third", 8, (64, 48), 25),
    ):
        decoded = decode_clip(members[name], SETTINGS)
        assert reader.jpegs(name, range(frames)) == decoded.jpegs
        expected = row(
            name, found[name]["class_index"], num_frames=frames, fps=fps, width=size[0], height=size[1]
        )
        assert found[name] == expected | {"bytes": sum(map(len, decoded.jpegs))}
        video = reader.video(name)
        assert (video.class_index, video.num_frames, video.fps) == (found[name]["class_index"], frames, fps)
        assert (video.source_width, video.source_height) == (640, 360)
    assert (reader.header.quality, reader.header.stride) == (90, 1)
    assert stage.outputs() == ["part_0.lmdb", "part_0.parquet"]


def test_a_source_size_that_no_ledger_knows_is_the_clips_own(tmp_path, shard_clips):
    unknown = [row("second", source_width=None, source_height=None), row("third", source_width=0)]
    stage = Stage(tmp_path, shard_clips, unknown)
    stage.run(SETTINGS.replace(size="40x32"))
    videos = dict(ShardReader(stage.shard).videos())
    assert {v: (video.source_width, video.source_height) for v, video in videos.items()} == {
        "second": (80, 60),
        "third": (64, 48),
    }


def test_the_shard_does_not_depend_on_the_number_of_processes(tmp_path, shard_clips):
    stage = Stage(tmp_path, shard_clips, [row(name) for name in shard_clips])
    contents = []
    for threads in (1, 3):
        stage.run(threads=threads)
        contents.append(stage.shard.read_bytes())
    assert contents[0] == contents[1]


def test_a_stride_halves_the_space_and_source_numbers_stay(tmp_path, shard_clips):
    stage = Stage(tmp_path, shard_clips, [row(name) for name in shard_clips])
    stage.run()
    whole = {name: ShardReader(stage.shard).jpegs(name, range(8)) for name in shard_clips}
    size = ShardReader(stage.shard).counts()["bytes"]
    stage.run(SETTINGS.replace(stride=2))
    reader = ShardReader(stage.shard)
    assert 0.4 < reader.counts()["bytes"] / size < 0.6
    for name, frames in (("-first_1", 21), ("second", 14), ("third", 8)):
        assert reader.num_frames(name) == stage.rows()[name]["num_frames"] == frames
        found = reader.frames(name, range(8))
        for index in range(8):
            assert (found[index] == pil_decode(whole[name][index // 2 * 2])).all()


def test_bad_clips_are_rows_with_the_decoders_words(tmp_path, shard_clips):
    sound = make_clip(tmp_path / "s.mp4", source="sine=duration=1", options=("-c:a", "aac")).read_bytes()
    clips = shard_clips | {"garbage": b"no video" * 999, "sound": sound}
    stage = Stage(tmp_path, clips, [row(name) for name in (*clips, "absent")])
    assert stage.run() == {"ok": 3, "corrupt": 1, "no_video_stream": 1, "missing": 1}
    rows = stage.rows()
    assert rows["garbage"]["status"] == "corrupt"
    assert "Invalid data" in rows["garbage"]["reason"]
    assert rows["absent"]["reason"] == "no clip in part_0.tar"
    for name in ("garbage", "sound", "absent"):
        assert (rows[name]["num_frames"], rows[name]["bytes"]) == (0, 0)
    assert set(ShardReader(stage.shard).video_ids) == set(shard_clips)


@pytest.mark.slow
def test_a_clip_past_its_deadline_is_a_row(tmp_path, shard_clips):
    long = make_clip(tmp_path / "long.mp4", source="testsrc2=size=640x480:rate=25", frames=400).read_bytes()
    stage = Stage(tmp_path, {"long": long} | shard_clips, [row(name) for name in ("long", *shard_clips)])
    stage.run(SETTINGS.replace(timeout=0.4))
    assert stage.rows()["long"]["status"] == "timeout"
    assert "0.4 s" in stage.rows()["long"]["reason"]
    assert set(ShardReader(stage.shard).video_ids) == set(shard_clips)


def test_too_many_bad_clips_fail_the_part_by_name_and_leave_what_was_there(tmp_path, shard_clips):
    clips = {"bad_1": b"x" * 99, "bad_2": b""} | shard_clips
    stage = Stage(tmp_path, clips, [row(name) for name in clips])
    with pytest.raises(
        V4DError, match=r"train/part_0: 2 of 5 videos are bad.*bad_1: corrupt: .*; bad_2: corrupt"
    ):
        stage.run(max_bad_share=0.39)
    assert stage.outputs() == []
    stage.run(max_bad_share=0.4)
    before = stage.shard.read_bytes()
    with pytest.raises(V4DError, match=r"dataset\.max_bad_share"):
        stage.run(max_bad_share=0.0)
    assert (stage.shard.read_bytes(), stage.outputs()) == (before, ["part_0.lmdb", "part_0.parquet"])


def test_videos_that_were_bad_before_do_not_count_twice(tmp_path, shard_clips):
    lost = [row(f"lost_{n}", status="corrupt", reason="was bad") for n in range(9)]
    stage = Stage(tmp_path, shard_clips, [*lost, *(row(name) for name in shard_clips)])
    assert stage.run(max_bad_share=0.0) == {"corrupt": 9, "ok": 3}


def test_a_part_without_a_single_good_clip_is_an_empty_shard(tmp_path):
    stage = Stage(tmp_path, {}, [row("lost", status="corrupt", reason="was bad")])
    stage.run()
    assert ShardReader(stage.shard).video_ids == []


def test_a_full_disk_keeps_the_old_shard_and_says_so_in_one_line(tiny):
    folder = tiny / "data/tiny/frames/train"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    where = ("--config", "config.yaml", "--split", "train", "--part", "part_0")
    with disk_of(50_000):
        done = run("frames", *where, cwd=tiny, check=False)
    errors = [line for line in done.stderr.splitlines() if "error" in line]
    assert (done.returncode, len(errors)) == (1, 1)
    assert "cannot write data/tiny/frames/train/part_0.lmdb" in errors[0]
    assert "Traceback" not in done.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_what_cannot_be_read_is_named(tmp_path, shard_clips):
    stage = Stage(tmp_path, shard_clips, [row(name) for name in shard_clips])
    (tmp_path / "data/x/clips/train/part_0.tar").write_bytes(b"no tar" * 300)
    with pytest.raises(V4DError, match=r"cannot read clips .*part_0\.tar"):
        stage.run()
    (tmp_path / "data/x/clips/train/part_0.parquet").write_bytes(b"no table")
    with pytest.raises(V4DError, match=r"cannot read ledger .*clips/train/part_0\.parquet"):
        stage.run()


def test_members_are_read_in_place(tmp_path, shard_clips):
    Stage(tmp_path, shard_clips, [])
    members = tar_members(tmp_path / "data/x/clips/train/part_0.tar")
    assert {name: member.read() for name, member in members.items()} == shard_clips
    assert all(isinstance(member, ClipBytes) for member in members.values())


def test_the_command_makes_one_part_anew(tiny):
    shard = tiny / "data/tiny/frames/train/part_1.lmdb"
    before = ShardReader(shard).frames(ShardReader(shard).video_ids[0], [0, 5])
    shard.unlink()
    where = ("--config", "config.yaml", "--split", "train", "--part", "part_1", "--threads", 2)
    done = run("frames", *where, cwd=tiny)
    assert "train/part_1: 8 ok" in done.stdout
    reader = ShardReader(shard)
    assert np.array_equal(reader.frames(reader.video_ids[0], [0, 5]), before)
    assert_one_line_error(run("frames", *where[:-3], "part_9", cwd=tiny, check=False), "part_9")
