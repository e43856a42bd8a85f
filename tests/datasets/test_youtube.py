import os
import re
import tarfile
import textwrap
from pathlib import Path

import pandas
import pytest

from tests.support import broken_videos, mirror
from v4d import config
from v4d.datasets import open_source, youtube
from v4d.datasets.annotations import write_annotations
from v4d.errors import V4DError
from v4d.preprocessing.clips import transcode_part
from v4d.utils.ffmpeg import Finished

CLIPS = config.ClipsConfig(
    size="32x24", gop=4, crf=18, preset="veryfast", fps=None, min_frames=1, timeout=20, keep=True
)


@pytest.fixture(autouse=True)
def watchdog():
    with mirror.watchdog(60):
        yield


def configured(layout: mirror.Layout, **changes) -> config.DatasetConfig:
    kinetics = {"base_url": layout.root.as_uri(), "parts": {"val": 1}, "class_count": None}
    kinetics |= {"youtube": True, "youtube_wait": 1e-6, **changes}
    settings = {"name": "k", "source": "kinetics", "splits": ["val"], "kinetics": kinetics}
    return config.build(config.resolve({"name": "k", "dataset": settings})).dataset


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """A validation split of one archive, clips made; two of its videos are in no archive."""
    monkeypatch.chdir(tmp_path)
    layout = mirror.build_layout(tmp_path / "mirror", {"val": 1}, videos=4)
    dataset = configured(layout)
    write_annotations(dataset)
    open_source(dataset).download("val", "part_0")
    transcode_part(dataset, CLIPS, "val", "part_0", threads=2)
    missing = set(youtube.missing_videos(dataset, "val")["video_id"])
    assert missing == layout.missing["val"] and len(missing) == 2
    return dataset


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A stand-in for yt-dlp: `answer(id, python)` says what happens, `calls()` what was asked for."""
    folder = tmp_path / "stub"
    (folder / "yt_dlp").mkdir(parents=True)
    (folder / "yt_dlp/__init__.py").write_text("")
    (folder / "clip.mp4").write_bytes(broken_videos.sound(8, "32x24"))
    (folder / "yt_dlp/__main__.py").write_text(
        textwrap.dedent(
            f"""
            import pathlib, sys, time
            here = pathlib.Path({str(folder)!r})
            with (here / "calls").open("a") as file:
                file.write("\\t".join(sys.argv[1:]) + "\\n")
            output = pathlib.Path(sys.argv[sys.argv.index("--output") + 1].replace("%%", "%"))
            def deliver(): output.write_bytes((here / "clip.mp4").read_bytes())
            def fail(words): sys.exit("ERROR: [youtube] " + words)
            exec((here / sys.argv[-1].split("=")[1]).read_text())
            """
        )
    )
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")

    class Site:
        @staticmethod
        def answer(video_id: str, python: str) -> None:
            (folder / video_id).write_text(python)

        @staticmethod
        def calls() -> list[list[str]]:
            file = folder / "calls"
            return [line.split("\t") for line in file.read_text().splitlines()] if file.exists() else []

    return Site


def test_what_is_missing_comes_and_what_is_gone_is_a_row_with_the_reason(dataset, site):
    there, gone = sorted(youtube.missing_videos(dataset, "val")["video_id"])
    site.answer(there, "deliver()")
    site.answer(gone, "fail('Private video. Sign in if you were granted access')")
    archive = youtube.download_missing(dataset, "val")
    with tarfile.open(archive) as tar:
        assert tar.getnames() == [f"{there}_000012_000022.mp4"]
    ledger = transcode_part(dataset, CLIPS, "val", youtube.YOUTUBE, threads=1).set_index("video_id")
    assert dict(ledger["status"]) == {there: "ok", gone: "missing"}
    assert "Private video" in ledger["reason"][gone]
    assert set(ledger["part"]) == {"youtube"}
    assert open_source(dataset).verify_archives() == []


def test_only_the_annotated_span_is_asked_for_and_cookies_only_where_configured(dataset, site):
    for video_id in youtube.missing_videos(dataset, "val")["video_id"]:
        site.answer(video_id, "deliver()")
    youtube.download_missing(dataset, "val")
    for call in site.calls():
        assert call[call.index("--download-sections") + 1] == "*12-22"
        assert "--cookies" not in call
        assert re.fullmatch(r"https://www\.youtube\.com/watch\?v=[\w-]{11}", call[-1])


def test_a_run_of_refusals_ends_it_and_a_later_run_goes_on(dataset, site):
    first, second = youtube.missing_videos(dataset, "val")["video_id"]
    site.answer(first, "deliver()")
    site.answer(second, "fail('HTTP Error 429: Too Many Requests')")
    with pytest.raises(
        V4DError, match=r"refuses, 6 times in a row.*429.*1 videos came now and stay"
    ) as error:
        youtube.download_missing(dataset, "val")
    assert "dataset.kinetics.give_up: [val/youtube]" in str(error.value)
    archive = Path("data/k/archives/val/youtube.tar.gz")
    assert not archive.exists()
    assert [call[-1][-11:] for call in site.calls()] == [first] + [second] * youtube.REFUSALS
    site.answer(second, "deliver()")
    youtube.download_missing(dataset, "val")
    assert [call[-1][-11:] for call in site.calls()][-1] == second
    assert len(site.calls()) == 1 + youtube.REFUSALS + 1  # the first was not asked for again
    with tarfile.open(archive) as tar:
        assert len(tar.getnames()) == 2


def test_what_was_gone_is_not_asked_for_again(dataset, site):
    for video_id in youtube.missing_videos(dataset, "val")["video_id"]:
        site.answer(video_id, "fail('Video unavailable. This video has been removed by the uploader')")
    for _ in range(2):
        youtube.download_missing(dataset, "val")
    assert len(site.calls()) == 2


def test_a_download_that_hangs_or_ends_without_a_file_is_no_success(dataset, site, monkeypatch):
    monkeypatch.setattr(youtube, "REFUSALS", 2)
    first, second = youtube.missing_videos(dataset, "val")["video_id"]
    site.answer(first, "pass")
    site.answer(second, "deliver(); time.sleep(100)")
    with pytest.raises(V4DError, match="no answer within the deadline"):
        youtube.download_missing(dataset, "val", deadline=1.0)
    assert youtube.outcomes(dataset, "val") == {first: "yt-dlp ended with 0"}
    assert not list(Path("data/k/archives/val/youtube").glob("[!.]*.mp4"))


def test_one_that_is_refused_comes_last_and_holds_nobody_up(dataset, site):
    first, second = youtube.missing_videos(dataset, "val")["video_id"]
    site.answer(first, "deliver() if (here / 'let').exists() else fail('HTTP Error 403: Forbidden')")
    site.answer(second, "(here / 'let').touch(); deliver()")
    youtube.download_missing(dataset, "val")
    assert [call[-1][-11:] for call in site.calls()] == [first, second, first]


@pytest.mark.parametrize(
    ("words", "passing"),
    [
        ("HTTP Error 429: Too Many Requests", True),
        ("Sign in to confirm you\u2019re not a bot. Use --cookies", True),
        ("unable to download video data: HTTP Error 403: Forbidden", True),
        ("ffmpeg exited with code 8", True),
        ("ffmpeg exited with code 183", False),
        ("Unable to extract data; please report this issue on https://github.com/yt-dlp/yt-dlp/issues", True),
        ("unable to write data: [Errno 28] No space left on device", True),
        ("Sign in to confirm your age. This video may be inappropriate for some users.", False),
        ("Private video. Sign in if you've been granted access to this video", False),
        (
            "Video unavailable. This video is no longer available because the account has been terminated.",
            False,
        ),
        ("The uploader has not made this video available in your country", False),
    ],
)
def test_what_is_about_the_video_is_told_from_what_passes(words, passing):
    finished = Finished(1, False, (f"ERROR: [youtube] {words}",), ())
    assert youtube._passing(finished, youtube._words(finished)) == passing
    crashed = Finished(1, False, ("Traceback (most recent call last):", "ImportError: x"), ())
    assert youtube._passing(crashed, youtube._words(crashed))


def test_given_up_what_has_come_is_all_there_is(dataset, site, tmp_path):
    first, second = youtube.missing_videos(dataset, "val")["video_id"]
    site.answer(first, "deliver()")
    site.answer(second, "fail('HTTP Error 429: Too Many Requests')")
    with pytest.raises(V4DError, match="refuses"):
        youtube.download_missing(dataset, "val")
    asked = len(site.calls())
    dataset = configured(mirror.Layout(tmp_path / "mirror"), give_up=["val/youtube"])
    youtube.download_missing(dataset, "val")
    assert len(site.calls()) == asked
    ledger = transcode_part(dataset, CLIPS, "val", youtube.YOUTUBE, threads=1).set_index("video_id")
    assert dict(ledger["status"]) == {first: "ok", second: "missing"}
    assert ledger["reason"][second] == "in no archive (given up: val/youtube); YouTube: not asked"


def test_a_video_that_is_broken_in_its_archive_is_asked_for_too(dataset, site):
    path = Path("data/k/clips/val/part_0.parquet")
    ledger = pandas.read_parquet(path)
    broken = ledger["video_id"][0]
    ledger.loc[0, ["status", "reason"]] = "corrupt", "moov atom not found"
    ledger.to_parquet(path)
    for video_id in youtube.missing_videos(dataset, "val")["video_id"]:
        site.answer(video_id, "deliver()" if video_id == broken else "fail('Private video')")
    youtube.download_missing(dataset, "val")
    found = transcode_part(dataset, CLIPS, "val", youtube.YOUTUBE, threads=1).set_index("video_id")
    assert found["status"][broken] == "ok" and len(found) == 3


def test_a_cookies_file_that_is_not_there_is_said_before_anything_is_asked(dataset, site, tmp_path):
    dataset = configured(mirror.Layout(tmp_path / "mirror"), cookies="no.txt")
    with pytest.raises(V4DError, match=r"dataset\.kinetics\.cookies: no such file: no\.txt"):
        youtube.download_missing(dataset, "val")
    Path("no.txt").touch()
    for video_id in youtube.missing_videos(dataset, "val")["video_id"]:
        site.answer(video_id, "deliver()")
    youtube.download_missing(dataset, "val")
    assert all(call[call.index("--cookies") + 1] == "no.txt" for call in site.calls())


def test_off_by_default_and_clear_without_the_extra(dataset, monkeypatch):
    with pytest.raises(V4DError, match=r"pip install 'v4d\[youtube\]'"):
        open_source(dataset).download("val", youtube.YOUTUBE)
    kinetics = {"parts": {"val": 1}}
    settings = {"name": "k", "source": "kinetics", "splits": ["val"], "kinetics": kinetics}
    default = config.build(config.resolve({"name": "k", "dataset": settings})).dataset
    with pytest.raises(V4DError, match="YouTube is off"):
        open_source(default).download("val", youtube.YOUTUBE)
    with pytest.raises(V4DError, match="YouTube is off"):
        transcode_part(dataset.replace(kinetics=default.options), CLIPS, "val", youtube.YOUTUBE, threads=1)
    assert open_source(default).parts("val") == ["part_0"]
    assert open_source(dataset).parts("val") == ["part_0", "youtube"]


def test_what_is_missing_is_known_only_when_all_clips_are_made(dataset):
    Path("data/k/clips/val/part_0.parquet").unlink()
    with pytest.raises(V4DError, match="known when all parts' clips are made"):
        youtube.missing_videos(dataset, "val")
