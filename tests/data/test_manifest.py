"""The manifest: every video once, counts that add up, or an error."""

import json

import duckdb
import pandas
import pytest
from conftest import assert_one_line_error, v4d

from v4d.data.manifest import MANIFEST_COLUMNS


def manifest(project, check=True):
    return v4d("manifest", "--config", "config.yaml", cwd=project, check=check)


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


def test_a_stage_that_has_not_run_is_named(tiny):
    (tiny / "data/tiny/frames/val/part_0.parquet").unlink()
    assert_one_line_error(manifest(tiny, check=False), "frames/val/part_0.parquet")
