"""The account of a data set: its fingerprint and counts, and what contradicts them."""

import hashlib
import json
from pathlib import Path

import pandas
import pytest

from tests.support.damages import DAMAGES, cut, remove
from v4d import config as configs
from v4d.config import Config
from v4d.data.account import account_problems, check_dataset, counts, fingerprint
from v4d.errors import V4DError
from v4d.utils.files import read_json, write_json

INFO = Path("data/tiny/dataset.json")


@pytest.fixture
def config(tiny, monkeypatch) -> Config:
    monkeypatch.chdir(tiny)
    return configs.load("config.yaml")


def test_a_finished_data_set_has_no_problems(config):
    assert list(account_problems(config)) == []
    check_dataset(config, config.dataset.splits)


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_was_changed_is_one_line_with_what_mends_it(config, damage):
    name, harm, command = DAMAGES[damage]
    harm(config.dataset.root / name)
    with pytest.raises(V4DError) as error:
        check_dataset(config, ["train"])
    assert "\n" not in str(error.value)
    assert any(command in problem for problem in account_problems(config))


def test_what_an_older_data_set_does_not_say_is_left_out(config):
    """The first version had all of its settings in it, of which later ones leave some out."""
    info = read_json(INFO)
    write_json(INFO, {"fingerprint": info["fingerprint"]})
    assert list(account_problems(config)) == []
    settings = {name: config.document[name] for name in ("clips", "frames")}
    assert settings != info["settings"]
    manifest = pandas.read_parquet(config.dataset.paths.manifest)
    classes = read_json(config.dataset.paths.classes)
    then = {"fingerprint": fingerprint(classes, settings, manifest), "settings": settings}
    write_json(INFO, info | then)
    assert then["fingerprint"] != info["fingerprint"] and list(account_problems(config)) == []


def test_the_fingerprint_is_over_lines_of_usable_videos():
    rows = [("val", "b", 1, 30, 9, "ok"), ("val", "a", 0, 20, 8, "ok"), ("train", "c", 1, 0, 0, "missing")]
    names = ["split", "video_id", "class_index", "num_frames", "bytes", "status"]
    text = json.dumps([["x", "y"], {"frames": {}}]) + "val\ta\t0\t20\t8\nval\tb\t1\t30\t9\n"
    found = fingerprint(["x", "y"], {"frames": {}}, pandas.DataFrame(rows, columns=names))
    assert found == hashlib.sha256(text.encode()).hexdigest()


def test_counts_add_up_or_are_refused():
    table = pandas.DataFrame(
        {"split": ["a", "a", "b"], "status": ["ok", "late", "ok"], "num_frames": [3, 0, 1]}
    )
    assert counts(table) == {"a": {"annotated": 2, "ok": 1, "late": 1}, "b": {"annotated": 1, "ok": 1}}
    with pytest.raises(V4DError, match="a: the counts do not add up"):
        counts(table.assign(num_frames=1))


@pytest.mark.parametrize("harm", [cut, remove])
def test_a_shard_that_is_not_whole_matters_where_its_split_is_used(config, harm):
    harm(config.dataset.paths.shard("val", "part_0"))
    check_dataset(config, ["train"])
    with pytest.raises(V4DError, match=r"val/part_0\.lmdb.*; `v4d verify` says how to make it anew"):
        check_dataset(config, ["val"])


def test_a_manifest_without_a_column_is_damaged(config):
    path = config.dataset.paths.manifest
    pandas.read_parquet(path).drop(columns="label").to_parquet(path)
    assert list(account_problems(config)) == [
        f"{path} is damaged: it has no column label; `v4d manifest` makes it anew"
    ]
