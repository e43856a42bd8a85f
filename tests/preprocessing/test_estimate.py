from pathlib import Path

import pandas
import pytest

from tests.support import broken_videos, mirror
from v4d import cli, config
from v4d.datasets import open_source
from v4d.datasets.annotations import write_annotations
from v4d.datasets.kinetics_archives import download_archive
from v4d.preprocessing.clips import transcode_part
from v4d.preprocessing.estimate import count_videos, estimate, summary
from v4d.utils.cost import measured, total_cost


@pytest.fixture(autouse=True)
def at(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def build(source: str = "kinetics", clips: dict | None = None, frames: dict | None = None, **dataset):
    document = {"name": "e", "dataset": {"name": "e", "source": source, **dataset}}
    return config.build(config.resolve(document | {"clips": clips or {}, "frames": frames or {}}))


def test_kinetics_400_as_the_papers_and_the_archives_tell():
    table = estimate(build())
    assert table.loc["clips", "videos"] == 240_258 + 19_881
    # 262 of the 301 archives with 436 GB in all, and 1,392 replacements
    assert table.loc["archives", "download_gb"] == pytest.approx(436 * 262 / 301 + 2.03, rel=0.01)
    assert table.loc["clips", "disk_gb"] == pytest.approx(150 * 260_139 / 240_000, rel=0.05)
    # 21.5 kB a frame, 300 frames, and a tenth for a key a frame
    assert table.loc["frames", "disk_gb"] == pytest.approx(260_139 * 300 * 21.5e-6 * 1.107, rel=0.01)
    assert set(table["basis"]) == {"averages"}


def test_a_subset_is_downloaded_whole_and_transcoded_in_part():
    whole, mini = estimate(build()), estimate(build(kinetics={"subset": "mini200"}))
    assert mini.loc["archives", "download_gb"] == whole.loc["archives", "download_gb"]
    assert mini.loc["clips", "videos"] == 85_000
    ratio = mini.loc["clips", "cpu_hours"] / whole.loc["clips", "cpu_hours"]
    assert ratio == pytest.approx(85_000 / 260_139)


def test_a_trial_run_costs_what_it_takes():
    trial = estimate(build(limit=5, kinetics={"parts": {"train": 242, "val": 20}}))
    assert trial.loc["clips", "videos"] == 2 * 400 * 5
    few = estimate(build(splits=["train"], kinetics={"parts": {"train": 2}, "use_replacements": False}))
    assert few.loc["clips", "videos"] == pytest.approx(240_258 * 2 / 242, abs=1)
    assert few.loc["archives", "download_gb"] == pytest.approx(2 * 436 / 301)
    assert few.loc["archives", "passing_gb"] == few.loc["archives", "download_gb"]
    one = {"parts": {"train": 2}, "use_replacements": False, "give_up": ["train/part_1"]}
    assert estimate(build(splits=["train"], kinetics=one)).loc["archives", "download_gb"] < 1.5


def test_archives_pass_through_and_do_not_pile_up():
    kept, passed = (
        estimate(build(kinetics={"keep_archives": keep})).loc["archives"] for keep in (True, False)
    )
    assert kept["disk_gb"] == kept["download_gb"] and kept["passing_gb"] == 0
    assert passed["disk_gb"] < 3 and 10 < passed["passing_gb"] < 80


@pytest.mark.parametrize(
    ("cheap", "dear", "stage", "column"),
    [
        ({"clips": {"crf": 28}}, {"clips": {"crf": 18}}, "clips", "disk_gb"),
        ({"clips": {"size": 128}}, {"clips": {"size": 256}}, "clips", "disk_gb"),
        ({"clips": {"size": 128}}, {"clips": {"size": 256}}, "frames", "disk_gb"),
        ({"clips": {"preset": "veryfast"}}, {"clips": {"preset": "slow"}}, "clips", "cpu_hours"),
        ({"clips": {"keep": False}}, {"clips": {"keep": True}}, "clips", "disk_gb"),
        ({"clips": {"fps": 15}}, {"clips": {"fps": 30}}, "frames", "disk_gb"),
        ({"frames": {"quality": 60}}, {"frames": {"quality": 80}}, "frames", "disk_gb"),
        ({"frames": {"quality": 80}}, {"frames": {"quality": 88}}, "frames", "disk_gb"),
        ({"frames": {"quality": 95}}, {"frames": {"quality": 100}}, "frames", "disk_gb"),
        ({"frames": {"stride": 4}}, {"frames": {"stride": 1}}, "frames", "disk_gb"),
        ({"frames": {"size": 128}}, {"frames": {"size": 256}}, "frames", "cpu_hours"),
        (
            {"kinetics": {"keep_archives": False}},
            {"kinetics": {"keep_archives": True}},
            "archives",
            "disk_gb",
        ),
    ],
)
def test_settings_that_cost_more_are_said_to(cheap, dear, stage, column):
    assert estimate(build(**cheap)).loc[stage, column] < estimate(build(**dear)).loc[stage, column]


def test_what_has_been_measured_takes_the_place_of_averages(at):
    layout = mirror.build_layout(at / "mirror", {"train": 2, "val": 1}, videos=8)
    kinetics = {"base_url": layout.root.as_uri(), "class_count": 4, "parts": {"train": 2, "val": 1}}
    settings = build(kinetics=kinetics, clips={"size": "32x24"}, splits=["train", "val"])
    write_annotations(settings.dataset)
    before = estimate(settings)
    path = download_archive(settings.dataset, "train", "part_0")
    ledger = transcode_part(settings.dataset, settings.clips, "train", "part_0", threads=1)
    after = estimate(settings)
    assert after.loc["archives", "download_gb"] == pytest.approx(
        3 * path.stat().st_size / 1e9 + 2.03, rel=0.01
    )
    usable = ledger[ledger["status"] == "ok"]
    assert after.loc["clips", "videos"] == 28  # annotated: 24 in archives, 4 in none
    assert after.loc["clips", "disk_gb"] == pytest.approx(28 * usable["bytes"].mean() / 1e9)
    cost = total_cost(settings.dataset.paths.costs("clips"))
    assert cost.videos == 8 and cost.cpu_seconds > 0
    assert after.loc["clips", "cpu_hours"] == pytest.approx(28 * cost.cpu_seconds / 8 / 3600)
    # clips of a third of a second: the frames' estimate knows that, too
    assert after.loc["frames", "disk_gb"] < 0.1 * before.loc["frames", "disk_gb"]
    assert after.loc["clips", "basis"] == f"measured, {len(usable)} videos"


def test_a_folder_is_counted(at):
    for number in range(3):
        mirror.write(at / f"videos/train/{'ab'[number % 2]}/{number}.mp4", broken_videos.sound())
    mirror.write(at / "videos/val/a/x.mp4", broken_videos.sound())
    assert count_videos(open_source(build("folder").dataset)) == 4
    assert estimate(build("folder", limit=1)).loc["clips", "videos"] == 3
    assert estimate(build("folder")).loc["archives", "download_gb"] == 0


def test_a_job_that_fails_is_no_measurement(at):
    with pytest.raises(RuntimeError), measured(at / "a.json"):
        raise RuntimeError
    (at / "b.json").write_text("{}")
    (at / "c.json").write_text("no json")
    # of an older version, which also wrote how long it took
    (at / "d.json").write_text('{"videos": 3, "bytes": 5, "cpu_seconds": 2.5, "wall_seconds": 9.0}')
    total = total_cost([at / f"{name}.json" for name in "abcd"])
    assert (total.videos, total.bytes, total.cpu_seconds) == (3, 5, 2.5)


def test_the_words_say_how_long_and_whether_it_fits():
    table = estimate(build())
    assert isinstance(table, pandas.DataFrame)
    text = " ".join(summary(table, cores=16, free=1e12))
    assert f"{table['cpu_hours'].sum() / 16:,.1f} hours on 16 cores" in text and "NOT ENOUGH" in text
    assert "NOT ENOUGH" not in " ".join(summary(table, cores=16, free=1e13))


def test_the_command(at, capsys):
    Path("c.yaml").write_text("name: d\ndataset: {name: d, source: synthetic}\n")
    assert cli.main(["estimate", "--config", "c.yaml", "--cores", "4"]) == 0
    out = capsys.readouterr().out
    assert "archives" in out and "640" in out and "on 4 cores" in out
