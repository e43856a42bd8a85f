"""The manifest: every video once, counts that add up, or an error."""

import json

import duckdb
import pandas
import pytest
import yaml

from tests.support.project import assert_one_line_error, run, train
from v4d import config
from v4d.preprocessing.manifest import MANIFEST_COLUMNS, counts_table


def manifest(project, check=True):
    return run("manifest", "--config", "config.yaml", cwd=project, check=check)


def change(path, edit) -> None:
    table = pandas.read_parquet(path)
    edit(table).to_parquet(path, index=False)


def test_columns_counts_and_fingerprint(tiny):
    path = tiny / "data/tiny/manifest.parquet"
    assert list(pandas.read_parquet(path).columns[: len(MANIFEST_COLUMNS)]) == MANIFEST_COLUMNS
    counts = duckdb.sql(f"select split, count(*) from '{path}' where status = 'ok' group by split").fetchall()
    assert dict(counts) == {"train": 20, "val": 10}
    info = json.loads((tiny / "data/tiny/dataset.json").read_text())
    assert info["counts"]["train"] == {"annotated": 20, "ok": 20}
    assert info["classes"] == 4 and len(info["fingerprint"]) == 64


def test_the_fingerprint_changes_with_the_data_only(tiny):
    before = json.loads((tiny / "data/tiny/dataset.json").read_text())["fingerprint"]
    manifest(tiny)
    assert json.loads((tiny / "data/tiny/dataset.json").read_text())["fingerprint"] == before
    change(
        tiny / "data/tiny/annotations/val.parquet",
        lambda t: t.assign(class_index=t["class_index"][::-1].values),
    )
    manifest(tiny)
    assert json.loads((tiny / "data/tiny/dataset.json").read_text())["fingerprint"] != before


def test_an_annotated_video_in_no_archive_is_missing(tiny):
    def with_one_more(table):
        return pandas.concat([table, table.iloc[:1].assign(video_id="-not_there")])

    change(tiny / "data/tiny/annotations/train.parquet", with_one_more)
    manifest(tiny)
    missing = pandas.read_csv(tiny / "data/tiny/missing.csv")
    assert list(missing["video_id"]) == ["-not_there"]
    info = json.loads((tiny / "data/tiny/dataset.json").read_text())
    assert info["counts"]["train"] == {"annotated": 21, "ok": 20, "missing": 1}


@pytest.mark.parametrize(
    ("table", "edit", "words"),
    [
        ("frames/train/part_0", lambda t: t.iloc[1:], ["train/part_0", "differ in 1 videos"]),
        ("frames/train/part_0", lambda t: pandas.concat([t, t.iloc[:1]]), ["train/part_0", "twice"]),
        ("annotations/val", lambda t: t.iloc[1:], ["val", "without annotation"]),
        ("annotations/val", lambda t: pandas.concat([t, t.iloc[:1]]), ["val", "listed twice"]),
    ],
)
def test_what_does_not_add_up_is_one_line_and_the_old_manifest_stays(tiny, table, edit, words):
    before = (tiny / "data/tiny/manifest.parquet").read_bytes()
    change(tiny / f"data/tiny/{table}.parquet", edit)
    assert_one_line_error(manifest(tiny, check=False), *words)
    assert (tiny / "data/tiny/manifest.parquet").read_bytes() == before


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data[:40] + b"?" * 90 + data[130:]])
def test_a_damaged_table_is_one_line(tiny, damage):
    path = tiny / "data/tiny/manifest.parquet"
    path.write_bytes(damage(path.read_bytes()))
    done = train(tiny, check=False)
    assert_one_line_error(done, "cannot read data/tiny/manifest.parquet", "Snakemake makes it anew")


def test_a_stage_that_has_not_run_is_named(tiny):
    (tiny / "data/tiny/frames/val/part_0.parquet").unlink()
    assert_one_line_error(manifest(tiny, check=False), "frames/val/part_0.parquet")


def test_what_was_found_stands_beside_what_others_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    splits = ["train", "val", "test"]
    dataset = {"name": "k", "source": "kinetics", "splits": splits}
    settings = config.build(config.resolve({"name": "k", "dataset": dataset, "testing": {"split": "val"}}))
    rows = [
        ("train", "part_0", "ok", 5),
        ("train", "part_0", "corrupt", 0),
        ("train", "", "missing", 0),
        ("val", "youtube", "ok", 3),
        ("val", "youtube", "missing", 0),
        ("test", "part_1", "timeout", 0),
    ]
    settings.dataset.root.mkdir(parents=True)
    table = pandas.DataFrame(rows, columns=["split", "part", "status", "num_frames"])
    table.to_parquet(settings.dataset.root / "manifest.parquet")
    found = counts_table(settings)
    assert list(found.columns) == ["annotated", "in_archives", "ok", "corrupt", "missing", "timeout"]
    assert list(found.index[:2]) == ["train found", "train published"] and len(found) == 6
    assert list(found.loc["train found"]) == [3, 2, 1, 1, 1, 0]
    assert list(found.loc["val found"]) == [2, 0, 1, 0, 1, 0]  # nothing of it was in an archive
    assert list(found.loc["train published"][:3]) == [246_534, 240_258, 240_436]
    assert found.loc["test published"].isna().tolist() == [False, False, True, True, True, True]


def test_a_share_of_bad_videos_that_was_lowered_is_held_against_what_is_there(tiny):
    def bad(table):
        return table.assign(status=table["status"].where(table.index > 0, "corrupt"))

    change(tiny / "data/tiny/clips/val/part_0.parquet", bad)
    settings = yaml.safe_load((tiny / "config.yaml").read_text())
    settings["dataset"]["max_bad_share"] = 0.05
    (tiny / "config.yaml").write_text(yaml.safe_dump(settings))
    assert_one_line_error(
        manifest(tiny, check=False), "val/part_0: 1 of 10 videos are bad", "max_bad_share 5%"
    )


def test_every_part_that_is_not_done_is_named(tiny):
    for part in ("part_0", "part_1"):
        (tiny / f"data/tiny/frames/train/{part}.parquet").unlink()
    done = manifest(tiny, check=False)
    assert_one_line_error(done, "2 of 2 parts are not done: train/part_0, train/part_1")
