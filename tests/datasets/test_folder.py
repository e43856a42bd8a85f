"""A user's own folder: what is a class and a video there, and what is said of the rest."""

from pathlib import Path

import pytest

from v4d import config
from v4d.datasets import open_source
from v4d.datasets.annotations import write_annotations
from v4d.utils.files import read_json


@pytest.fixture(autouse=True)
def at(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def dataset(**folder: str):
    document = {"name": "mine", "source": "folder", "folder": {"path": "videos", **folder}}
    return config.build(config.resolve({"name": "mine", "dataset": document})).dataset


def touch(*paths: str) -> None:
    for path in paths:
        Path("videos", path).parent.mkdir(parents=True, exist_ok=True)
        Path("videos", path).touch()


def written(capsys, **folder: str) -> tuple[list[str], dict[str, int], list[str]]:
    """Classes, videos by split, and the lines that the user sees."""
    found = dataset(**folder)
    counts = write_annotations(found)
    return read_json(found.paths.classes), counts, capsys.readouterr().err.splitlines()


def test_what_is_hidden_is_no_class_and_phones_videos_are_videos(capsys):
    touch("train/cat/a.mp4", "train/cat/b.MOV", "train/dog/c.m4v", "train/dog/.d.mp4", "val/cat/e.avi")
    touch("val/dog/f.mpg", "train/.Trash-1000/g.mp4", "val/.hidden/h.mp4", "train/cat/.DS_Store")
    assert written(capsys) == (["cat", "dog"], {"train": 3, "val": 2}, [])


def test_what_is_left_out_is_said_with_counts(capsys):
    touch("train/cat/a.mp4", "train/dog/b.mp4", "val/cat/c.mp4", "val/dog/d.mp4")
    touch("train/cat/list.txt", "train/dog/poster.JPG", "val/dog/other.jpg", "val/dog/README")
    _, counts, said = written(capsys)
    assert counts == {"train": 2, "val": 2}
    words = "left out are files that are no videos by their names"
    assert said == [f"mine: {words}: 2 with .jpg, 1 with .txt, 1 with no ending"]


def test_classes_of_one_split_alone_are_named(capsys):
    touch(*(f"train/{name}/a.mp4" for name in "abcdef"), "val/a/x.mp4", "val/new/x.mp4")
    _, _, said = written(capsys)
    assert said == [
        "mine: of train alone: b, c, d and 2 more (5 of 7 classes)",
        "mine: of val alone: new (1 of 7 classes)",
    ]


def test_stray_spaces_make_no_class_of_their_own(capsys):
    touch("a.mp4", "b.mp4", "c.mp4")
    Path("videos/train.csv").write_text("path,label\na.mp4,cat\nb.mp4, cat \nc.mp4,dog\n")
    Path("videos/val.csv").write_text('path,label\na.mp4,"dog "\nb.mp4,cat\n')
    assert written(capsys, layout="csv") == (["cat", "dog"], {"train": 3, "val": 2}, [])


def test_spaces_around_a_folders_name_are_none_of_the_classs(capsys):
    touch("train/cat /a.mp4", "train/dog/b.mp4", "val/cat/c.mp4", "val/dog/d.mp4")
    assert written(capsys)[0] == ["cat", "dog"]


def test_spellings_that_differ_in_case_are_kept_and_named(capsys):
    touch("train/Cat/a.mp4", "train/cat/b.mp4", "val/Cat/c.mp4", "val/cat/d.mp4")
    classes, _, said = written(capsys)
    assert classes == ["Cat", "cat"]
    assert said == ["mine: classes that differ in upper and lower case only: Cat, cat"]


def test_a_row_of_spaces_is_refused():
    touch("a.mp4")
    Path("videos/train.csv").write_text("path,label\na.mp4,  \n")
    with pytest.raises(Exception, match="line 2: a row needs a path and a label"):
        open_source(dataset(layout="csv")).files("train")
