"""Kinetics through Snakemake, from a mirror with a bad archive and a YouTube that refuses, to a manifest."""

import textwrap
from pathlib import Path

import pandas
import pytest
import yaml

from tests.support import mirror
from tests.support.workflow import checkout, snakemake
from v4d import config as configs
from v4d.datasets import open_source

BAD = "val/part_1"
LEDGERS = ["part_0", "part_1", "youtube"]


class Project:
    """A checkout whose config and whose stand-in for YouTube change from run to run."""

    def __init__(self, folder: Path, layout: mirror.Layout):
        self.folder, self.layout = checkout(folder), layout
        self.data = folder / "data/mini"
        site = folder / "yt_dlp"  # on the path before site-packages, as the folder of this checkout is
        site.mkdir()
        (site / "__init__.py").touch()
        (site / "clip.mp4").write_bytes(mirror.short_clip(3))
        (site / "__main__.py").write_text(
            textwrap.dedent(
                """
                import pathlib, shutil, sys
                here, video = pathlib.Path(__file__).parent, sys.argv[-1].split("=")[1]
                with (here / "asked").open("a") as file:
                    file.write(video + "\\n")
                if video not in (here / "delivers").read_text().split():
                    sys.exit("ERROR: [youtube] " + video + ": HTTP Error 429: Too Many Requests")
                shutil.copy(here / "clip.mp4", sys.argv[sys.argv.index("--output") + 1])
                """
            )
        )
        self.delivers([])

    def delivers(self, ids: list[str]) -> None:
        (self.folder / "yt_dlp/delivers").write_text(" ".join(ids))

    def asked(self) -> list[str]:
        file = self.folder / "yt_dlp/asked"
        return file.read_text().split() if file.exists() else []

    def run(
        self, *words: str, check: bool = True, splits=("val",), max_bad_share=0.25, keep=True, **kinetics
    ) -> str:
        base = {"base_url": self.layout.root.as_uri(), "parts": {"val": 2}, "class_count": 4}
        dataset = {"name": "mini", "source": "kinetics", "splits": list(splits), "kinetics": base | kinetics}
        dataset["max_bad_share"] = max_bad_share
        document = {"name": "flow", "dataset": dataset, "clips": {"size": "32x24", "keep": keep}}
        document |= {"models": dict.fromkeys(("i3ds", "tsn", "v4d"))}
        (self.folder / "flow.yaml").write_text(yaml.safe_dump(document))
        return snakemake(self.folder, *words, check=check)

    def parts_done(self) -> set[str]:
        return {path.stem for path in (self.data / "frames/val").glob("*.lmdb")}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    layout = mirror.build_layout(tmp_path_factory.mktemp("mirror"), {"val": 2}, videos=4)
    bad = layout.root / f"400/{BAD}.tar.gz"
    bad.write_bytes(bad.read_bytes()[:-2000])
    return Project(tmp_path_factory.mktemp("kinetics"), layout)


ONCE = {"classes": 1, "manifest": 1, "all": 1}
WITHOUT_YOUTUBE = {"annotations": 1, "archive": 2, "clips": 2, "frames": 2, **ONCE}


@pytest.mark.long
def test_youtube_is_no_job_where_it_is_not_wanted(project):
    assert _jobs(project.run("-n", "--quiet", "rules")) == WITHOUT_YOUTUBE


def _jobs(printed: str) -> dict[str, int]:
    """The table of jobs that a dry run prints."""
    rows = [line.split() for line in printed.splitlines()]
    named = (row for row in rows if len(row) == 2 and row[0].isidentifier() and row[1].isdigit())
    return {name: int(count) for name, count in named if name != "total"}


@pytest.mark.long
def test_from_a_bad_archive_and_refusals_to_a_manifest(project):
    """What cannot be had stops nothing else, names its way out, and is a row with a reason in the end."""
    missing = sorted(project.layout.missing["val"])
    lost = {video for video, part in project.layout.archived["val"].items() if part == "part_1"}

    printed = project.run(youtube=True, youtube_wait=0.001, check=False)
    assert _jobs(printed) == WITHOUT_YOUTUBE | {"late_archive": 1, "clips": 3, "frames": 3}
    assert "1 failed, and say why:" in printed and "archive/val/part_1: file:///" in printed
    assert "is a damaged or truncated archive" in printed and f"dataset.kinetics.give_up: [{BAD}]" in printed
    assert project.parts_done() == {"part_0"} and project.asked() == []

    project.delivers([missing[0]])
    given_up = [BAD]
    printed = project.run(youtube=True, youtube_wait=0.001, give_up=given_up, check=False)
    assert "archive/val/youtube: YouTube refuses, 6 times in a row" in printed
    assert "dataset.kinetics.give_up: [val/youtube]" in printed
    assert project.parts_done() == {"part_0", "part_1"}
    asked = project.asked()
    assert set(asked) == {*missing, *lost} and asked.count(missing[0]) == 1

    given_up = [BAD, "val/youtube"]
    project.run(youtube=True, youtube_wait=0.001, give_up=given_up)
    assert project.asked() == asked and project.parts_done() == set(LEDGERS)
    manifest = pandas.read_parquet(project.data / "manifest.parquet").set_index("video_id")
    assert set(manifest.index) == project.layout.ids("val")
    absent = {missing[1], *lost}
    assert set(manifest.index[manifest["status"] == "missing"]) == absent
    assert set(manifest["reason"][list(absent)]) == {
        "in no archive (given up: val/part_1, val/youtube); YouTube: not asked"
    }
    assert set(manifest["status"].drop(list(absent))) == {"ok"}
    assert manifest["part"][missing[0]] == "youtube"
    assert set(pandas.read_csv(project.data / "missing.csv")["video_id"]) == absent
    jobs = project.run("-n", "--quiet", "rules", youtube=True, give_up=["val/youtube"])
    assert "archive" in jobs and "manifest" in jobs  # wanted after all


@pytest.mark.long
def test_what_a_running_download_does_not_depend_on_begins_nothing_anew(project):
    """Another mirror, another wait, clips not kept, YouTube off, one more split: nothing is made again."""
    config = {"youtube": True, "give_up": [BAD, "val/youtube"], "youtube_wait": 3, "connections": 2}
    config["base_url"] = "https://mirror.example.org/kinetics"
    assert "Nothing to be done" in project.run("-n", keep=False, **config)
    jobs = _jobs(project.run("-n", "--quiet", "rules", give_up=[BAD], max_bad_share=0.9))
    assert jobs == {"manifest": 1, "all": 1}
    more = {"splits": ["val", "test"], "parts": {"val": 2, "test": 1}, "youtube": False, "give_up": [BAD]}
    jobs = _jobs(project.run("-n", "--quiet", "rules", **more))
    assert jobs == {"annotations": 1, "archive": 1, "clips": 1, "frames": 1, **ONCE}


def test_a_default_that_is_spelled_out_and_a_line_that_moved_change_no_setting():
    plain = configs.resolve({"name": "k", "dataset": {"name": "k", "source": "kinetics"}})
    spelled = dict(reversed(plain.items())) | {"clips": {"crf": 18, "size": "320x256"}}
    spelled["dataset"] = dict(reversed(plain["dataset"].items()))
    assert repr(configs.resolve(spelled)) == repr(plain)


def test_downloads_leave_room_for_the_jobs_that_use_up_what_they_bring():
    """Four downloads of one core each, or as many as there are cores, and never no room for any clips."""
    settings = configs.build(configs.resolve({"name": "k", "dataset": {"name": "k", "source": "kinetics"}}))
    source = open_source(settings.dataset)
    for cores in range(1, 129):
        threads = source.part_threads(cores)
        assert 1 <= threads <= 4 and (threads == 1 or threads + 4 <= cores)
