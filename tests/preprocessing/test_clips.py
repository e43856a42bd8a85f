import gzip
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import av
import numpy as np
import pandas
import psutil
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.datasets import test_tar
from tests.support import broken_videos, mirror
from tests.support.project import environment
from v4d import cli
from v4d.config import ClipsConfig
from v4d.datasets.archives import ArchiveError
from v4d.datasets.base import SourceVideo, archive_videos, file_videos
from v4d.datasets.replacements import Replacements, repack
from v4d.errors import V4DError
from v4d.preprocessing import transcode as module_of_transcode
from v4d.preprocessing.clips import make_clips
from v4d.preprocessing.frames import tar_members
from v4d.preprocessing.ledger import LEDGER_COLUMNS
from v4d.preprocessing.transcode import transcode
from v4d.utils.ffmpeg import ffmpeg_binary, run_with_deadline
from v4d.utils.threads import Room, ordered_results

SETTINGS = ClipsConfig(
    size="48x32", gop=8, crf=18, preset="veryfast", fps=None, min_frames=1, timeout=20, keep=True
)


@pytest.fixture(autouse=True)
def watchdog():
    with mirror.watchdog(120):
        yield


def decoded(data: bytes, folder: Path) -> list[av.VideoFrame]:
    path = folder / "decoded.mp4"
    path.write_bytes(data)
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def rgb(data: bytes, width: int, height: int, *filters: str) -> np.ndarray:
    """Frames as ffmpeg shows them, uint8 [F, height, width, 3]."""
    chain = ",".join([*filters, f"scale={width}:{height}", "format=rgb24"])
    raw = broken_videos.ffmpeg(
        "-i", "in", "-vf", chain, "-f", "rawvideo", name="out.raw", inputs={"in": data}
    )
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


def table(ids: list[str], part: str = "part_0", **columns: object) -> pandas.DataFrame:
    frame = pandas.DataFrame({"video_id": ids, "label": "yoga", "class_index": 3, "split": "train"})
    defaults = {"part": part, "path": "", "time_start": float("nan"), "time_end": float("nan")}
    return frame.assign(**(defaults | columns))


def make(folder: Path, videos, expected: pandas.DataFrame, **changes: object) -> pandas.DataFrame:
    options = {
        "split": "train",
        "part": "part_0",
        "tar": folder / "part_0.tar",
        "ledger": folder / "part_0.parquet",
        "settings": SETTINGS,
        "threads": 2,
        "max_bad_share": 1.0,
    }
    return make_clips(videos, expected, **(options | changes))


# One video


@pytest.mark.parametrize("kind", broken_videos.KINDS)
def test_every_kind_of_video_becomes_a_clip_or_a_reason(kind, tmp_path):
    maker, status, frames = broken_videos.KINDS[kind]
    clip = transcode(maker(), SETTINGS)
    assert clip.status == status
    if status != "ok":
        assert clip.data == b"" and clip.num_frames == 0
        assert clip.reason and "0x" not in clip.reason and "/fd/" not in clip.reason
        return
    assert clip.reason == ""
    assert len(decoded(clip.data, tmp_path)) == clip.num_frames > 0
    assert frames is None or clip.num_frames == frames
    assert (clip.width, clip.height) == (48, 32)


def test_a_clip_is_what_the_settings_say(tmp_path):
    clip = transcode(broken_videos.sound(), SETTINGS)
    (tmp_path / "clip.mp4").write_bytes(clip.data)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        codec = container.streams.video[0].codec_context
        frames = list(container.decode(video=0))
    assert (codec.name, codec.pix_fmt, codec.width, codec.height) == ("h264", "yuv420p", 48, 32)
    assert int(codec.color_range) == 1 and int(codec.colorspace) == 6  # limited, SMPTE 170M
    assert [i for i, frame in enumerate(frames) if frame.key_frame] == [0, 8, 16, 24]
    assert (clip.source_width, clip.source_height) == (64, 48)
    assert clip.fps == 25 and clip.seconds == 1


def test_the_decoders_words_about_damage_are_kept():
    assert "partial file" in transcode(broken_videos.truncated_index_in_front(), SETTINGS).warning
    assert "error while decoding" in transcode(broken_videos.bit_damage(), SETTINGS).warning
    assert "moov atom not found" in transcode(broken_videos.truncated_index_behind(), SETTINGS).reason


def test_frames_are_counted_and_not_believed(tmp_path):
    video = broken_videos.edit_list()
    (tmp_path / "cut.mp4").write_bytes(video)
    with av.open(str(tmp_path / "cut.mp4")) as container:
        assert container.streams.video[0].frames > 30
    assert transcode(video, SETTINGS).num_frames == 30


def test_variable_rate_is_kept_unless_a_rate_is_configured(tmp_path):
    video = broken_videos.variable_rate()
    times = [frame.time for frame in decoded(video, tmp_path)]
    kept = [frame.time for frame in decoded(transcode(video, SETTINGS).data, tmp_path)]
    assert np.allclose(np.diff(kept), np.diff(times), atol=1e-3) and np.ptp(np.diff(times)) > 0.03
    constant = transcode(video, SETTINGS.replace(fps=10.0))
    steps = np.diff([frame.time for frame in decoded(constant.data, tmp_path)])
    assert np.allclose(steps, 0.1, atol=1e-3) and constant.fps == 10


def test_rotation_is_applied():
    video = broken_videos.rotated()
    clip = transcode(video, SETTINGS.replace(size=48))
    assert (clip.width, clip.height) == (48, 64)
    upright = rgb(clip.data, 48, 64).astype(int)
    expected = rgb(broken_videos.sound(), 48, 64, "transpose=2").astype(int)  # the matrix says 90 to the left
    assert abs(upright - expected).mean() < 6


@pytest.mark.parametrize("kind", ["full_range", "ten_bit", "wrong_extension"])
def test_colours_stay_what_they_were(kind):
    video = broken_videos.KINDS[kind][0]()
    clip = transcode(video, SETTINGS.replace(size="64x48", crf=1))
    before, after = rgb(video, 64, 48).astype(int), rgb(clip.data, 64, 48).astype(int)
    assert before.shape == after.shape
    # swscale itself is a level or two off; a wrong range or matrix is off by 10 and more
    assert abs(before - after).mean() < 4
    assert abs(before.mean((0, 1, 2)) - after.mean((0, 1, 2))).max() < 3


@pytest.mark.parametrize(
    ("kind", "size"), [("odd_size", (64, 48)), ("anamorphic", (128, 48)), ("rotated", (48, 64))]
)
def test_a_short_side_keeps_the_ratio_as_displayed_in_even_numbers(kind, size):
    clip = transcode(broken_videos.KINDS[kind][0](), SETTINGS.replace(size=48))
    assert (clip.width, clip.height) == size


def test_an_odd_size_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(V4DError, match=r"clips\.size 49x32"):
        make(tmp_path, [], table([]), settings=SETTINGS.replace(size="49x32"))


def test_fewer_frames_than_configured_is_too_short():
    clip = transcode(broken_videos.one_frame(), SETTINGS.replace(min_frames=2))
    assert (clip.status, clip.num_frames, clip.data) == ("too_short", 0, b"")
    assert clip.reason == "1 frames, fewer than 2"


def test_the_same_input_gives_the_same_bytes_from_a_path_or_from_memory(tmp_path):
    video = broken_videos.sound()
    (tmp_path / "a 'b' %d.mp4").write_bytes(video)  # nothing in a name means anything to ffmpeg
    assert transcode(video, SETTINGS) == transcode(tmp_path / "a 'b' %d.mp4", SETTINGS)


# A child that misbehaves


def stub(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_a_decoder_that_hangs_is_killed_with_its_children_and_the_others_go_on(tmp_path, monkeypatch):
    real = ffmpeg_binary()
    # hangs on videos that begin with HANG, in a grandchild that holds the pipes open
    script = f"""
for word in "$@"; do case "$word" in /dev/fd/*) [ -z "$input" ] && input="$word";; esac; done
if [ "$(head -c 4 "$input")" = HANG ]; then echo "[error] looping" >&2; sleep 987654; fi
exec {real} "$@"
"""
    monkeypatch.setenv("V4D_FFMPEG", stub(tmp_path / "ffmpeg", script))
    videos = [SourceVideo(f"v{n}", b"HANG" if n == 1 else broken_videos.sound()) for n in range(6)]
    quick = SETTINGS.replace(timeout=1.5)
    ledger = make(tmp_path, videos, table([f"v{n}" for n in range(6)]), settings=quick)
    assert list(ledger["status"]) == ["ok", "timeout", "ok", "ok", "ok", "ok"]
    assert "killed after" in ledger["reason"][1] and "looping" in ledger["reason"][1]
    assert_is_gone("987654")


def assert_is_gone(word: str) -> None:
    """No process has the word on its command line; a killed one is gone once init has reaped it."""
    deadline = time.monotonic() + 10
    while any(word in p.info["cmdline"] for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"]):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_a_child_has_started_ends_with_it_and_is_not_waited_for(tmp_path):
    """As yt-dlp starts ffmpeg, which then holds the pipe of its complaints open."""
    finished = run_with_deadline([stub(tmp_path / "leaves", "sleep 987653 & exit 3")], timeout=600)
    assert (finished.code, finished.timed_out) == (3, False)
    assert_is_gone("987653")


def test_a_child_that_prints_without_end_costs_no_memory(tmp_path):
    before = psutil.Process().memory_info().rss
    finished = run_with_deadline([stub(tmp_path / "chatty", "yes '[error] again and again' >&2")], timeout=1)
    assert finished.timed_out
    # The kill may cut the last line.
    assert finished.last_words().split(" | ")[0] == "again and again"
    assert psutil.Process().memory_info().rss - before < 50e6


def test_a_child_can_be_given_up_early(tmp_path):
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    assert run_with_deadline([stub(tmp_path / "slow", "sleep 1000")], timeout=900, stop=stop).timed_out


# A part


def test_a_part_is_a_webdataset_and_a_ledger(tmp_path):
    kinds = list(broken_videos.KINDS)
    expected = table([*kinds, "absent"])
    ledger = make(tmp_path, [SourceVideo(k, broken_videos.KINDS[k][0]()) for k in kinds], expected)
    assert list(ledger.columns) == list(LEDGER_COLUMNS)
    assert list(ledger["video_id"]) == [*kinds, "absent"]
    assert list(ledger["status"]) == [*(broken_videos.KINDS[k][1] for k in kinds), "missing"]
    usable = ledger[ledger["status"] == "ok"].set_index("video_id")
    assert (ledger.set_index("video_id").drop(usable.index)["reason"] != "").all()
    assert (usable["reason"] == "").all()
    samples = list(webdataset.WebDataset(str(tmp_path / "part_0.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == list(usable.index)
    for sample in samples:
        assert sample["cls"] == b"3"
        assert len(sample["mp4"]) == usable["bytes"][sample["__key__"]]
        assert len(decoded(sample["mp4"], tmp_path)) == usable["num_frames"][sample["__key__"]]
    pandas.testing.assert_frame_equal(pandas.read_parquet(tmp_path / "part_0.parquet"), ledger)


def test_the_tar_does_not_depend_on_the_number_of_threads(tmp_path):
    ids = [f"v{n}" for n in range(9)]
    # the first is the slowest by far, so that with three threads it ends last
    videos = [
        SourceVideo(i, mirror.short_clip(n) if n else broken_videos.sound(200)) for n, i in enumerate(ids)
    ]
    results = []
    for threads in (1, 3):
        folder = tmp_path / str(threads)
        make(folder, videos, table(ids), threads=threads)
        results.append([(folder / name).read_bytes() for name in ("part_0.tar", "part_0.parquet")])
    assert results[0] == results[1]


@pytest.mark.parametrize("name", ["x" * 96, "x" * 97, "x" * 126, "x" * 200, "ü-日本語", "ü" * 100])
def test_an_id_of_any_length_and_script_comes_back_from_the_tar(tmp_path, name):
    video = mirror.short_clip(0)
    ledger = make(tmp_path, [SourceVideo(i, video) for i in ("short", name)], table(["short", name]))
    assert list(ledger["status"]) == ["ok", "ok"]
    tar = tmp_path / "part_0.tar"
    samples = list(webdataset.WebDataset(str(tar), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ["short", name]
    assert len(samples[1]["mp4"]) == ledger["bytes"][1] and samples[1]["cls"] == b"3"
    places = tar_members(tar)
    assert list(places) == ["short", name]
    place = places[name]
    assert tar.read_bytes()[place.offset : place.offset + place.size] == samples[1]["mp4"]


def test_the_tar_of_short_ids_is_plain_ustar(tmp_path):
    """Which every tool reads; so a data set that was made before stays the same to the last byte."""
    ids = ["-a_b", "x" * 96]
    make(tmp_path, [SourceVideo(i, mirror.short_clip(0)) for i in ids], table(ids))
    with (
        tarfile.open(tmp_path / "part_0.tar") as made,
        tarfile.open(tmp_path / "plain.tar", "w", format=tarfile.USTAR_FORMAT) as plain,
    ):
        for info in made:
            plain.addfile(tarfile.TarInfo.frombuf(info.tobuf(), "utf-8", "strict"), made.extractfile(info))
    assert (tmp_path / "plain.tar").read_bytes() == (tmp_path / "part_0.tar").read_bytes()


def test_too_many_bad_videos_fail_the_part_with_names_and_reasons(tmp_path):
    make(tmp_path, [SourceVideo("old", broken_videos.sound())], table(["old"]))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    videos = [SourceVideo("good", broken_videos.sound()), SourceVideo("bad", b""), SourceVideo("page", b"<")]
    with pytest.raises(V4DError) as error:
        make(tmp_path, videos, table(["good", "bad", "page"]), max_bad_share=0.5)
    text = str(error.value)
    assert "train/part_0" in text and "2 of 3" in text and "67%" in text and "max_bad_share" in text
    assert "bad: corrupt" in text and "page: corrupt" in text
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_that_is_gone_is_missing(tmp_path):
    (tmp_path / "here.mp4").write_bytes(broken_videos.sound())
    paths = [str(tmp_path / "here.mp4"), str(tmp_path / "gone.mp4"), str(tmp_path)]
    expected = table(["here", "gone", "folder"], path=paths)
    ledger = make(tmp_path, file_videos(expected), expected)
    assert list(ledger["status"]) == ["ok", "missing", "missing"]
    assert "gone.mp4" in ledger["reason"][1]


def test_a_clip_shorter_than_annotated_is_noted(tmp_path):
    expected = table(["whole", "half"], time_start=3.0, time_end=[4.0, 5.0])
    ledger = make(tmp_path, [SourceVideo(i, broken_videos.sound()) for i in ("whole", "half")], expected)
    assert list(ledger["status"]) == ["ok", "ok"]
    assert ledger["warning"][0] == "" and "1.0 s of 2.0 s annotated" in ledger["warning"][1]


def test_the_command_makes_the_clips_of_a_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for number in range(5):
        video = b"" if number == 4 else mirror.short_clip(number)
        name = f"clip {number}" + (" of a very long name" * 8 if number == 0 else "")
        mirror.write(tmp_path / f"videos/train/{'ab'[number % 2]}/{name}.mp4", video)
    Path("c.yaml").write_text(
        "name: f\ndataset: {name: f, source: folder, splits: [train], part_size: 3, max_bad_share: 0.9}\n"
        "clips: {size: 32x24}\n"
    )
    assert cli.main(["annotations", "--config", "c.yaml"]) == 0
    annotated = pandas.read_parquet("data/f/annotations/train.parquet").set_index("video_id")
    gone = next(i for i, row in annotated.iterrows() if Path(row["path"]).name == "clip 2.mp4")
    Path(annotated["path"][gone]).unlink()
    ledgers = []
    for part in ("part_0", "part_1"):
        arguments = ["--config", "c.yaml", "--split", "train", "--part", part, "--threads", "2"]
        assert cli.main(["clips", *arguments]) == 0
        ledgers.append(pandas.read_parquet(f"data/f/clips/train/{part}.parquet"))
        assert set(ledgers[-1]["video_id"]) == set(annotated.index[annotated["part"] == part])
    status = pandas.concat(ledgers).set_index("video_id")["status"]
    assert status[gone] == "missing" and sorted(status) == ["corrupt", "missing", "ok", "ok", "ok"]
    assert cli.main(["clips", "--config", "c.yaml", "--split", "train", "--part", "part_2"]) == 1
    assert "no part 'part_2'; train has part_0 to part_1" in capsys.readouterr().err


# From archives


def test_members_go_from_the_archive_to_the_clips(tmp_path):
    good = mirror.short_clip(0)
    members = [(f"{i}_000012_000022.mp4", good) for i in ("-a_b", "other", "late")]
    members += [("late_000100_000110.mp4", good), ("-a_b_000012_000022.mp4", b"again")]
    mirror.write(tmp_path / "a.tar.gz", mirror.archive(members, folder="x/y/"))
    packed = mirror.archive([("late_000012_000022.mp4", mirror.short_clip(1))], folder="r/")
    mirror.write(tmp_path / "r.tgz", packed)
    assert repack(tmp_path / "r.tgz", tmp_path / "r.tar") == 1
    expected = table(["-a_b", "late", "elsewhere"], part="", time_start=12.0, time_end=22.0)
    videos = archive_videos(tmp_path / "a.tar.gz", expected, Replacements(tmp_path / "r.tar").get)
    ledger = make(tmp_path, videos, expected)
    # not annotated, another span and a second copy are passed over; what is in no archive is no row here
    assert list(ledger["video_id"]) == ["-a_b", "late"]
    assert list(ledger["status"]) == ["ok", "ok"]
    assert list(ledger["replaced"]) == [False, True]
    assert ledger["bytes"][0] == len(transcode(good, SETTINGS).data)
    assert ledger["bytes"][1] == len(transcode(mirror.short_clip(1), SETTINGS).data)


def test_a_damaged_archive_leaves_nothing(tmp_path):
    members = [(f"v{n}_000012_000022.mp4", mirror.short_clip(n)) for n in range(8)]
    data = mirror.archive(members)
    mirror.write(tmp_path / "a.tar.gz", data[: len(data) * 3 // 4])
    expected = table([f"v{n}" for n in range(8)], part="", time_start=12.0, time_end=22.0)
    with pytest.raises(ArchiveError, match="truncated"):
        make(tmp_path / "out", archive_videos(tmp_path / "a.tar.gz", expected), expected)
    assert not [path for path in (tmp_path / "out").iterdir() if path.suffix != ".lock"]


# Memory


def test_a_video_larger_than_the_config_allows_is_refused_and_not_read(tmp_path):
    sizes = {"small": (1 << 20) - 1, "just": 1 << 20, "large": (1 << 20) + 1}
    mirror.write(
        tmp_path / "a.tar", mirror.archive([(f"{n}.mp4", bytes(s)) for n, s in sizes.items()], plain=True)
    )
    expected = table(list(sizes), part="")
    ledger = make(
        tmp_path,
        archive_videos(tmp_path / "a.tar", expected),
        expected,
        settings=SETTINGS.replace(max_megabytes=1),
    )
    assert list(ledger["status"]) == ["corrupt", "corrupt", "refused"]
    assert ledger["reason"][2] == "it has 1048577 bytes; clips.max_megabytes is 1"


def test_a_large_clip_that_waits_in_a_file_is_the_same(tmp_path, monkeypatch):
    videos = [SourceVideo(f"v{n}", broken_videos.sound(16, "64x48", n)) for n in range(3)]
    expected = table([video.video_id for video in videos])
    here = make(tmp_path / "here", videos, expected)
    monkeypatch.setattr(module_of_transcode, "SMALL", 0)
    assert not isinstance(transcode(videos[0].source, SETTINGS).content, bytes)
    assert transcode(videos[0].source, SETTINGS).size == here["bytes"][0]
    pandas.testing.assert_frame_equal(make(tmp_path / "file", videos, expected), here)
    assert (tmp_path / "file/part_0.tar").read_bytes() == (tmp_path / "here/part_0.tar").read_bytes()


HOSTILE = """
import sys, pandas
from pathlib import Path
from v4d.config import ClipsConfig
from v4d.datasets.base import archive_videos
from v4d.preprocessing.clips import make_clips
folder = Path(sys.argv[1])
expected = pandas.read_parquet(folder / "expected.parquet")
where = {"tar": folder / "o.tar", "ledger": folder / "o.parquet", "split": "train", "part": "part_0"}
videos = archive_videos(folder / "a.tar.gz", expected)
make_clips(videos, expected, **where, settings=ClipsConfig(), threads=8, max_bad_share=1.0)
# Not ru_maxrss, which begins with what the parent had.
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.slow
def test_a_job_stays_small_whatever_its_archive_holds(tmp_path):
    mib = 1 << 20
    # Each more than half of what may be in memory; and one that is a few bytes here, and 2 GiB sparse.
    members = [(f"v{n}.mp4", 200 * mib) for n in range(3)] + [("v3.mp4", 257 * mib)]
    with gzip.open(tmp_path / "a.tar.gz", "wb", 1) as packed:
        for name, size in members:
            packed.write(test_tar.header(name.encode(), size=size))
            for _ in range(size // mib):
                packed.write(bytes(mib))
        packed.write(test_tar.ODD["sparse 1.0"] + test_tar.END)
    table(["v0", "v1", "v2", "v3", "a"], part="").to_parquet(tmp_path / "expected.parquet")
    words = [sys.executable, "-c", HOSTILE, str(tmp_path)]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=True)
    assert list(pandas.read_parquet(tmp_path / "o.parquet")["status"]) == ["corrupt"] * 3 + ["refused"] * 2
    assert int(done.stdout) < 600 * 1024


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 15), max_size=20), st.integers(1, 4))
def test_no_more_is_in_a_room_than_fits_but_for_what_fits_nowhere(sizes, threads):
    room, inside, lock = Room(10), [], threading.Lock()

    def items():
        for size in sizes:
            room.take(size)
            with lock:
                inside.append(size)
                assert sum(inside) <= 10 or len(inside) == 1
            yield size

    def work(size):
        time.sleep(size / 20000)
        with lock:
            inside.remove(size)
        room.give_back(size)
        return size

    assert list(ordered_results(work, items(), threads=threads, size=lambda _: 1, held=5)) == sizes


# The pool


@settings(max_examples=30, deadline=None)
@given(
    delays=st.lists(st.integers(0, 3), max_size=25),
    threads=st.integers(1, 4),
    held=st.sampled_from([0, 3, 1000]),
)
def test_results_come_in_order_and_little_is_read_ahead(delays, threads, held):
    begun, taken = [], []

    def items():
        for number, delay in enumerate(delays):
            begun.append(number)
            yield number, delay

    def work(item):
        time.sleep(item[1] / 2000)
        return item[0]

    for result in ordered_results(work, items(), threads=threads, size=lambda _: 1, held=held):
        taken.append(result)
        # being worked on or waiting for a thread, finished and held, and the one in hand
        assert len(begun) - len(taken) <= (threads + 1) + (held + threads + 1)
    assert taken == list(range(len(delays)))


def test_an_error_in_the_source_comes_through_the_pool():
    def items():
        yield 1
        raise ArchiveError("ends early")

    with pytest.raises(ArchiveError):
        list(ordered_results(lambda n: n, items(), threads=2, size=lambda _: 1, held=10))


def test_the_tar_opens_with_plain_tools(tmp_path):
    make(tmp_path, [SourceVideo("v", broken_videos.sound())], table(["v"]))
    with tarfile.open(tmp_path / "part_0.tar") as archive:
        assert [(info.name, info.mtime, info.uid) for info in archive] == [("v.mp4", 0, 0), ("v.cls", 0, 0)]
