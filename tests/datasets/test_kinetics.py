import dataclasses
import hashlib
import random
import shutil
from pathlib import Path

import pandas
import pytest

from tests.support import mirror
from tests.support.processes import start
from v4d import cli, config
from v4d.datasets import open_source, released_classes
from v4d.datasets.annotations import write_annotations
from v4d.datasets.download.http import RetryPolicy
from v4d.datasets.kinetics_annotations import kinetics_annotations
from v4d.datasets.kinetics_archives import download_archive
from v4d.datasets.kinetics_versions import VERSIONS
from v4d.errors import V4DError
from v4d.preprocessing.clips import transcode_part

HASTE = RetryPolicy(first=0.01, cap=0.02, attempts=4)
CLIPS = config.ClipsConfig(
    size="32x24", gop=4, crf=18, preset="veryfast", fps=None, min_frames=1, timeout=20, keep=True
)


@pytest.fixture(autouse=True)
def watchdog():
    with mirror.watchdog(300):
        yield


@pytest.fixture(autouse=True)
def at(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def layout(tmp_path_factory) -> mirror.Layout:
    return mirror.build_layout(tmp_path_factory.mktemp("layout"), videos=12)


def dataset_of(base: str, *, limit=None, splits=("train", "val"), **settings) -> config.DatasetConfig:
    settings = {"base_url": base, "class_count": None, "parts": mirror.PARTS, **settings}
    dataset = {"name": "k", "source": "kinetics", "splits": list(splits), "limit": limit}
    document = {"name": "k", "dataset": dataset | {"kinetics": settings}}
    return config.build(config.resolve(document)).dataset


def read(dataset: config.DatasetConfig) -> tuple[list[str], dict[str, pandas.DataFrame]]:
    """Classes, and tables by split."""
    found = kinetics_annotations(dataset, HASTE)
    return found.classes, found.tables


def csvs(folder: Path, **contents: str) -> str:
    for split, content in contents.items():
        mirror.write(folder / f"400/annotations/{split}.csv", content.encode())
    return folder.as_uri()


# Names that are published


def test_the_400_names_and_the_released_models_order():
    names, released = released_classes(400), released_classes(200)
    assert len(set(names)) == 400 and names == sorted(names) == released_classes()
    assert names[0] == "abseiling" and names[-1] == "zumba"
    assert len(set(released)) == 200 and set(released) <= set(names)
    # from the released converter: Kinetics-400 index 18 is their class 0, 229 their 1, 399 their 15
    assert [released[0], released[1], released[15]] == [names[18], names[229], names[399]]
    assert released_classes(7) == []


def test_a_version_is_one_entry(monkeypatch):
    """Another one has its own number of classes and archives, and results of its own."""
    six = dataclasses.replace(
        VERSIONS["400"], title="Kinetics-600", classes=600, parts={"val": 2}, subsets={}
    )
    monkeypatch.setitem(VERSIONS, "600", six)
    dataset = dataset_of("file:///m", splits=["val"], class_count=600, parts={"val": 1})
    options = dataset.options.model_copy(update={"version": "600"})  # whose names were read at the start
    source = open_source(dataset.model_copy(update={"kinetics": options}))
    assert source.published_name(600, "val") == "Kinetics-600"
    assert source.transcoded(100) == 50
    assert source.archive_settings() == {"version": "600"}


def test_published_counts_are_those_of_the_papers():
    public = "https://s3.amazonaws.com/kinetics"

    def counts(**settings) -> pandas.DataFrame | None:
        published = open_source(dataset_of(public, **settings)).published()
        return published and published.counts

    full = counts(class_count=400, splits=["train", "val", "test"])
    assert list(full.loc["train"]) == [246_534, 240_258, 240_436]
    assert list(full["annotated"]) == [246_534, 19_906, 39_805]
    assert full["authors_copy"].isna().tolist() == [False, False, True]
    mini = counts(class_count=400, subset="mini200")
    assert list(mini["annotated"]) == [80_000, 5_000] and list(mini["authors_copy"]) == [78_422, 4_994]
    assert counts(class_count=None) is None
    assert counts(class_count=400, limit=3) is None


# Reading


def test_both_header_styles_and_every_id_are_read(layout):
    classes, tables = read(dataset_of(layout.root.as_uri()))
    assert classes == sorted(mirror.LABELS)
    for split in ("train", "val"):
        table = tables[split]
        assert set(table["video_id"]) == layout.ids(split)
        assert [classes[i] for i in table["class_index"]] == list(table["label"])
        assert {i: layout.labels[i] for i in table["video_id"]} == dict(
            zip(table["video_id"], table["label"], strict=True)
        )
        assert set(table["part"]) == {""} and set(table["split"]) == {split}
        assert set(table["time_end"] - table["time_start"]) == {10}
    ids = tables["train"]["video_id"]
    assert ids.str.startswith("-").any() and ids.str.contains("_").any()


def test_ids_that_look_like_something_else_stay_text(at):
    ids = ("12345678901", "1e5________", "NA", "nan", "None", "-0.5e3", "TRUE")
    rows = [f"yoga,{i},1,11,val" for i in ids]
    base = csvs(at / "m", val="\r\n".join(["\ufefflabel,youtube_id,time_start,time_end,split", *rows]))
    with pytest.raises(V4DError, match=r"line 7: '-0\.5e3' is no YouTube id"):
        read(dataset_of(base, splits=["val"]))
    del rows[5]
    base = csvs(at / "n", val="\r\n".join(["\ufefflabel,youtube_id,time_start,time_end,split", *rows]))
    _, tables = read(dataset_of(base, splits=["val"]))
    assert list(tables["val"]["video_id"]) == [row.split(",")[1] for row in rows]


def test_an_id_counts_once_and_a_test_video_is_not_trained_on(at, capsys):
    header = "label,youtube_id,time_start,time_end,split,is_cc\n"
    train = "yoga,a,1,11,train,0\nzumba,a,5,15,train,0\nyoga,shared,1,11,train,0\nzumba,b,1,11,train,1\n"
    base = csvs(at / "m", train=header + train, val=header + "zumba,shared,1,11,val,0\nyoga,c,0,10,val,0\n")
    _, tables = read(dataset_of(base))
    assert list(tables["train"]["video_id"]) == ["a", "b"] and tables["train"]["label"][0] == "yoga"
    assert list(tables["val"]["video_id"]) == ["shared", "c"]
    said = capsys.readouterr().err
    assert "1 rows of ids that were annotated before" in said and "1 ids that are in another split" in said


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no column 'label'"),
        ("label,youtube_id,time_start,time_end,split\n", "holds no videos"),
        ("youtube_id,time_start,time_end,split\na,1,2,test\n", "no column 'label'"),
        ("label,youtube_id,time_start,time_end\n,a,1,2\n", "line 2: no label"),
        ("label,youtube_id,time_start,time_end\nyoga,../../x,1,2\n", "line 2: .* is no YouTube id"),
        (f"label,youtube_id,time_start,time_end\nyoga,{'x' * 201},1,2\n", "line 2: 'x+' is no YouTube id"),
        ("label,youtube_id,time_start,time_end\nyoga,a,1,\n", "line 2: time_start and time_end"),
        ("label,youtube_id,time_start,time_end\nyoga,a\n", "line 2: time_start and time_end"),
        ("<!DOCTYPE html><html>", "no column 'label'"),
    ],
)
def test_a_table_that_is_none_is_an_error_with_its_place(at, content, words):
    base = csvs(at / "m", val=content)
    with pytest.raises(V4DError, match=words):
        read(dataset_of(base, splits=["val"]))
    assert not Path("data/k/annotations/source/val.csv").exists()


def test_labels_are_held_against_the_400_names(at):
    names = released_classes()
    rows = [f'"{name}",id{n:03d},0,10,val' for n, name in enumerate(names)]
    header = "label,youtube_id,time_start,time_end,split\n"
    base = csvs(at / "good", val=header + "\n".join(rows))
    classes, tables = read(dataset_of(base, splits=["val"], class_count=400))
    assert classes == names and list(tables["val"]["class_index"]) == list(range(400))
    base = csvs(at / "bad", val=header + "\n".join(rows).replace("zumba", "zumbaa"))
    shutil.rmtree("data")
    with pytest.raises(V4DError, match=r"2 differ, e\.g\. 'zumba'"):
        read(dataset_of(base, splits=["val"], class_count=400))


def test_a_number_of_classes_that_is_not_the_configured_one(layout):
    with pytest.raises(V4DError, match=r"4 classes.* dataset\.kinetics\.class_count is 5"):
        read(dataset_of(layout.root.as_uri(), class_count=5))


# Mini-Kinetics


def mini(layout: mirror.Layout, **changes) -> config.DatasetConfig:
    lists = {split: layout.root / f"mini/{split}_ytid_list.txt" for split in ("train", "val")}
    sums = {split: hashlib.sha256(path.read_bytes()).hexdigest() for split, path in lists.items()}
    settings = {"subset": "mini200", "mini_url": (layout.root / "mini").as_uri(), "mini_sha256": sums}
    return dataset_of(layout.root.as_uri(), **(settings | changes))


def test_a_subset_has_its_listed_videos_and_classes_in_alphabetical_order(layout):
    classes, tables = read(mini(layout))
    assert classes == sorted([mirror.LABELS[0], mirror.LABELS[2]])
    for split, table in tables.items():
        assert set(table["video_id"]) == {i for i in layout.ids(split) if layout.labels[i] in classes}
        assert [classes[i] for i in table["class_index"]] == list(table["label"])


def test_a_list_with_another_sha256_is_refused(layout):
    wrong = {"train": "0" * 64, "val": "0" * 64}
    with pytest.raises(V4DError, match=r"dataset\.kinetics\.mini_sha256\.train"):
        read(mini(layout, mini_sha256=wrong))
    read(mini(layout, mini_sha256=None))


def test_a_subset_has_no_test_split(layout):
    with pytest.raises(V4DError, match="mini200 has train and val"):
        read(mini(layout, splits=["train", "val", "test"]))


# Fetching


def test_tables_are_fetched_once_and_again_from_another_address_or_when_touched(layout):
    with mirror.Mirror(layout.root) as server:
        for _ in range(2):
            read(dataset_of(server.url))
        paths = [path for path, range_ in server.requests if range_ == "bytes=0-0"]
        assert sorted(paths) == ["/400/annotations/train.csv", "/400/annotations/val.csv"]
        with Path("data/k/annotations/source/val.csv").open("a") as file:
            file.write("yoga,extra,1,11,val\n")
        _, tables = read(dataset_of(server.url))
        assert "extra" not in set(tables["val"]["video_id"])


def test_tables_that_changed_at_the_source_are_refused(at, layout):
    read(dataset_of(layout.root.as_uri(), splits=["val"]))
    original = (layout.root / "400/annotations/val.csv").read_text()
    base = csvs(at / "new", val=original + "yoga,extra,1,11,val\n")
    with pytest.raises(V4DError, match=r"annotations/val\.csv is not what it was"):
        read(dataset_of(base, splits=["val"]))


# All of it, from a mirror that misbehaves


def run(*arguments: str) -> None:
    assert cli.main([*arguments, "--config", "config.yaml"]) == 0, arguments


@pytest.mark.slow
def test_from_a_bad_server_to_ledgers_that_account_for_every_video(at, tmp_path_factory):
    layout = mirror.build_layout(tmp_path_factory.mktemp("whole"))
    faults = [
        [mirror.cut(None), mirror.cut(9_999), mirror.cut(1)],
        [mirror.status(503)],
        [mirror.redirect] * 2,
        [mirror.without_ranges] * 2,
        [mirror.web_page],
        [mirror.cut(None), mirror.wrong_length(-70)],
    ]
    ledgers = []
    with mirror.Mirror(layout.root) as server:
        dataset = dataset_of(server.url, splits=["train", "val", "test"], class_count=4)
        write_annotations(dataset)
        truncated = layout.root / "400/val/part_2.tar.gz"
        whole = truncated.read_bytes()
        truncated.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(V4DError, match=r"part_2\.tar\.gz is a damaged or truncated archive"):
            download_archive(dataset, "val", "part_2", HASTE)
        truncated.write_bytes(whole)
        for split, count in mirror.PARTS.items():
            for number in range(count):
                part = f"part_{number}"
                server.faults[f"/400/{split}/{part}.tar.gz"] = list(faults[number % len(faults)])
                download_archive(dataset, split, part, HASTE)
                transcode_part(dataset, CLIPS, split, part, threads=2)
                ledgers.append(pandas.read_parquet(f"data/k/clips/{split}/{part}.parquet"))
        assert not any(server.faults.values())
    found = pandas.concat(ledgers, ignore_index=True)
    assert len(found) == sum(mirror.PARTS.values()) * mirror.VIDEOS_A_PART == 204
    for split in mirror.PARTS:
        rows = found[found["split"] == split]
        assert dict(zip(rows["video_id"], rows["part"], strict=True)) == layout.archived[split]
    bad = found[found["status"] != "ok"].set_index("video_id")
    expected = {i: kind for i, kind in layout.broken.items() if kind != "one_frame"}
    assert set(bad.index) == {*expected, layout.climbing}
    assert bad["status"][layout.climbing] == "refused" and ".." in bad["reason"][layout.climbing]
    for video_id, kind in expected.items():
        status = "no_video_stream" if kind == "audio_only" else "corrupt"
        assert bad["status"][video_id] == status and bad["reason"][video_id]
    assert set(found.loc[found["replaced"], "video_id"]) == layout.replaced
    usable = found[found["status"] == "ok"]
    frames = usable.set_index("video_id")["num_frames"]
    assert set(frames[[i for i, kind in layout.broken.items() if kind == "one_frame"]]) == {1}
    assert set(frames.drop([i for i, kind in layout.broken.items() if kind == "one_frame"])) == {8}
    assert (usable["width"] == 32).all() and (usable["bytes"] > 0).all()


@pytest.mark.slow
def test_killed_at_twenty_moments_it_ends_with_the_same_manifest(at, tmp_path_factory, monkeypatch):
    layout = mirror.build_layout(tmp_path_factory.mktemp("few"), {"train": 1, "val": 1}, videos=16)
    jobs = [(stage, split) for split in ("train", "val") for stage in ("download", "clips")]
    results = {}
    with mirror.Mirror(layout.root) as server:
        for split in ("train", "val"):
            server.always[f"/400/{split}/part_0.tar.gz"] = mirror.drip(0.015)
        settings = f"{{base_url: '{server.url}', class_count: 4, parts: {{train: 1, val: 1}}}}"
        dataset = f"{{name: k, source: kinetics, kinetics: {settings}}}"
        for name, kills in (("undisturbed", 0), ("killed", 5)):
            (at / name).mkdir()
            monkeypatch.chdir(at / name)
            Path("config.yaml").write_text(f"name: k\ndataset: {dataset}\nclips: {{size: 32x24}}\n")
            run("annotations")
            dice = random.Random(13)
            for stage, split in jobs:
                for _ in range(kills):
                    _run_and_kill([stage, "--split", split, "--part", "part_0"], dice.uniform(0.0, 1.0))
                run(stage, "--split", split, "--part", "part_0")
            for split in ("train", "val"):
                run("frames", "--split", split, "--part", "part_0")
            run("manifest")
            results[name] = {
                "manifest": pandas.read_parquet("data/k/manifest.parquet").to_dict("records"),
                "counts and fingerprint": Path("data/k/dataset.json").read_text(),
                "files": sorted(p.name for p in Path("data/k").glob("*/*/*") if p.suffix != ".lock"),
            }
    assert str(results["killed"]) == str(results["undisturbed"])
    assert len(results["killed"]["manifest"]) == 2 * (16 + 2)


def _run_and_kill(arguments: list[str], seconds: float) -> None:
    child = start(cli.main, [*arguments, "--config", "config.yaml"])
    child.join(seconds)
    child.kill()
    child.join()
