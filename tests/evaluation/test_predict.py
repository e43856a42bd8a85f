"""`v4d predict` on real files: the test stage's scores, many containers, broken files, folders."""

import json
import os
import tarfile
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from matplotlib.image import imread

from tests.support import made_by_hand as made
from v4d import config as configuration
from v4d.checkpoints import load_any
from v4d.cli import main
from v4d.evaluation import stage
from v4d.evaluation.predict import Predictor
from v4d.evaluation.video_file import find_videos
from v4d.models import create_model
from v4d.models.state_dict_names import foreign_names
from v4d.utils.ffmpeg import run_with_deadline

RED, GREEN = (
    "color=c=0xDC1E1E:size=96x64:rate=20:duration=2",
    "color=c=0x1EDC1E:size=96x64:rate=20:duration=2",
)
CLIPS = {"size": "48x32", "gop": 16}
FORMATS = {  # name: (encoder's arguments, frames that must be found)
    "h264.mp4": (["-c:v", "libx264", "-pix_fmt", "yuv420p"], 40),
    "hevc.mkv": (["-c:v", "libx265", "-x265-params", "log-level=none"], 40),
    "vp9.webm": (["-c:v", "libvpx-vp9", "-deadline", "realtime"], 40),
    "mpeg4.avi": (["-c:v", "mpeg4", "-q:v", "3"], 40),
    "prores.mov": (["-c:v", "prores_ks"], 40),
    "animation.gif": (["-c:v", "gif"], 40),
    "variable.mkv": (["-vf", "select='not(mod(n,2))+lt(n,10)'", "-fps_mode", "vfr", "-c:v", "libx264"], 25),
    "wmv2.asf": (["-c:v", "wmv2", "-q:v", "3"], 40),
    "flash.flv": (["-c:v", "flv", "-q:v", "3"], 40),
    "mpeg2.ts": (["-c:v", "mpeg2video", "-q:v", "3"], 40),
    "pictures.mjpeg": (["-c:v", "mjpeg", "-q:v", "3"], 40),
    "stream.m4v": (["-c:v", "mpeg4", "-q:v", "3", "-f", "m4v"], 40),
}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def ffmpeg(*words: str) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-y", *words]
    finished = run_with_deadline(command, timeout=60)
    assert finished.code == 0, finished.lines


def colour_checkpoint() -> None:
    model = made.colour_model()
    info = {"clips": CLIPS, "testing": {"units": 5, "crops": 3, "crop_size": 32}}
    made.save(model, Path("colour.pt"), **info)


def half_red_half_green(path: str) -> None:
    join = "[0:v][1:v]concat=n=2:v=1"
    ffmpeg("-f", "lavfi", "-i", RED, "-f", "lavfi", "-i", GREEN, "-filter_complex", join, path)


@pytest.mark.slow
@pytest.mark.parametrize("from_the_config", [True, False])
def test_a_video_has_the_scores_that_the_test_stage_gave_it(tiny, monkeypatch, from_the_config):
    """Archive to clip to shard to test, against the archive's file through predict."""
    monkeypatch.chdir(tiny)
    config = configuration.load("config.yaml")
    torch.manual_seed(1)
    model = create_model("v4d_tiny", num_classes=4, units=2, frames=2, dropout=0.5)
    torch.nn.init.normal_(model.fc.weight, std=2)
    checkpoint = Path("results/tiny/v4d/main/final.pt")
    classes = json.loads(Path("data/tiny/annotations/classes.json").read_text())
    document = config.document
    info = {"stage": {"frame_stride": 3}, "clips": document["clips"], "frames": document["frames"]}
    if not from_the_config:
        info["testing"] = document["testing"]
    made.save(model, checkpoint, classes, **info)
    assert stage.main(["--config", "config.yaml", "--model", "v4d"]) == 0
    table = pq.read_table("results/tiny/v4d/test/predictions.parquet").to_pandas().set_index("video_id")
    with tarfile.open("data/tiny/archives/val/part_0.tar.gz") as archive:
        archive.extractall("videos", filter="data")
    videos = find_videos(["videos"])[:4]

    predictor = Predictor(checkpoint, config if from_the_config else None)
    predictions = list(predictor.predict(videos, processes=2))

    assert [prediction.path for prediction in predictions] == videos
    for prediction in predictions:
        expected = table.loc[prediction.path.stem]
        np.testing.assert_allclose(prediction.probabilities, expected["probabilities"], atol=1e-6)
        assert prediction.top(1)[0][0] == expected["predicted_index"]
    assert len({tuple(p.probabilities.round(4)) for p in predictions}) == 4  # they are not all alike


def test_every_container_and_codec_is_read_and_a_broken_file_stops_no_other(capfd):
    colour_checkpoint()
    Path("videos").mkdir()
    for name, (words, _) in FORMATS.items():
        ffmpeg("-f", "lavfi", "-i", RED, *words, f"videos/{name}")
    ffmpeg("-display_rotation", "90", "-i", "videos/h264.mp4", "-c", "copy", "videos/rotated.mp4")
    Path("videos/broken.mp4").write_bytes(Path("videos/h264.mp4").read_bytes()[:700])
    Path("videos/empty.mkv").write_bytes(b"")
    Path("videos/notes.txt").write_text("no video")
    Path("list.mp4").write_text("#EXTM3U\n#EXTINF:2,\nvideos/h264.mp4\n")
    ffmpeg("-i", "videos/h264.mp4", "-frames:v", "1", "picture.png")
    strange = Path("videos", os.fsdecode(b"\xff.mp4"))  # no UTF-8
    strange.write_bytes(Path("videos/h264.mp4").read_bytes())

    files = ["videos", "list.mp4", "picture.png"]
    code = main(["predict", *files, "--checkpoint", "colour.pt", "--json", "--top-k", "2"])

    out, err = capfd.readouterr()
    results = {Path(result["video"]).name: result for result in json.loads(out)}
    more = {"rotated.mp4": 40, strange.name: 40}
    assert set(results) == {*FORMATS, *more, "broken.mp4", "empty.mkv", "list.mp4", "picture.png"}
    for name, frames in [*((name, frames) for name, (_, frames) in FORMATS.items()), *more.items()]:
        best, second = results[name]["top"]
        assert (best["class"], best["class_index"]) == ("red", 0), name
        assert best["probability"] > 0.99 > 0.01 > second["probability"], name
        assert results[name]["num_frames"] == frames, name
    assert code == 1
    assert "broken.mp4: corrupt" in err
    assert "empty.mkv: " in err
    assert "picture.png: corrupt: no video, or in a container that is not read here" in err
    assert len([line for line in err.splitlines() if "error" in line]) == 4


def test_text_and_a_timeline_of_what_each_unit_says(capsys):
    colour_checkpoint()
    half_red_half_green("halves.mp4")
    assert main(["predict", "halves.mp4", "--checkpoint", "colour.pt", "--timeline", "line.png"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "halves.mp4"
    assert {line.split()[-1] for line in lines[1:3]} == {"red", "green"}
    assert len(lines) == 5
    assert imread("line.png").std() > 0.05

    (fewest,) = Predictor("colour.pt", units=1).predict([Path("halves.mp4")], evidence=True)
    assert len(fewest.evidence.seconds) == 2  # the network's own
    (prediction,) = Predictor("colour.pt").predict([Path("halves.mp4")], evidence=True)
    evidence = prediction.evidence
    assert evidence.probabilities.argmax(1).tolist() in ([0, 0, 0, 1, 1], [0, 0, 1, 1, 1])
    np.testing.assert_allclose(evidence.probabilities.sum(1), 1, atol=1e-5)
    assert (np.diff(evidence.seconds) > 0.5).all()
    assert (evidence.seconds > 0).all() and 3 < evidence.seconds[-1] < 4  # of four
    assert evidence.span == pytest.approx(3 * 2 / 20)  # three frames, every second one, 20 a second
    assert evidence.pictures[0].mean((0, 1)).argmax() == 0
    assert evidence.pictures[-1].mean((0, 1)).argmax() == 1


def test_mistakes_are_one_line(capsys):
    colour_checkpoint()
    Path("empty").mkdir()
    os.mkfifo("pipe")
    for words, message in {
        ("nothing.mp4",): "no such file: nothing.mp4",
        ("pipe",): "pipe is no regular file",
        ("colour.pt", "--timeline", "line.xyz"): "line.xyz: a plot is written to .png",
        ("empty",): "no videos in the folder empty",
        ("empty", "--top-k", "0"): "--top-k must be at least 1",
        ("colour.pt", "--checkpoint", "none.pt"): "no such checkpoint: none.pt",
    }.items():
        assert main(["predict", "--checkpoint", "colour.pt", *words]) == 1
        line = capsys.readouterr().err
        assert message in line
        assert line.count("\n") == 1


def test_a_crop_larger_than_the_frames_is_that_videos_problem(capsys):
    colour_checkpoint()
    ffmpeg("-f", "lavfi", "-i", RED, "red.mp4")
    assert main(["predict", "red.mp4", "--checkpoint", "colour.pt", "--crop-size", "64"]) == 1
    assert "red.mp4: a crop of 64 does not fit frames of 48x32" in capsys.readouterr().err


def test_a_checkpoint_as_the_authors_released_it_is_taken_as_it_is(tmp_path):
    torch.manual_seed(0)
    model = create_model("v4d_resnet18", num_classes=200, units=4, frames=4)
    state = model.state_dict()
    names = {
        ours: f"module.base_model.{theirs}"
        for ours, theirs in foreign_names(model, with_blocks4d=True).items()
    }
    names |= {f"fc.{what}": f"module.new_fc.{what}" for what in ("weight", "bias")}
    released = {theirs: state[ours] for ours, theirs in names.items()}
    for name in released:
        if name.endswith("tsa.weight"):
            released[name] = released[name].permute(2, 0, 1, 3, 4, 5)  # (U, out, in, T, H, W), as published
    torch.save({"epoch": 9, "arch": "V4D", "best_prec1": 75.6, "state_dict": released}, "released.pth")
    finished = load_any(Path("released.pth"))
    assert (finished.units, finished.frames, finished.frame_stride) == (4, 4, 8)
    assert finished.classes[:2] == ["belly dancing", "playing didgeridoo"]  # the released models' own order
    x = torch.randn(1, 4, 3, 4, 32, 32)
    torch.testing.assert_close(finished.model(x), model.eval()(x))


@pytest.mark.slow
def test_an_exported_program_gives_the_checkpoints_scores(capsys):
    colour_checkpoint()
    assert main(["export", "colour.pt", "--out", "colour.pt2", "--size", "32"]) == 0
    torch.export.save(torch.export.load("colour.pt2"), "bare.pt2")  # without its description
    half_red_half_green("halves.mp4")
    (ours,) = Predictor("colour.pt").predict([Path("halves.mp4")])

    exported = Predictor("colour.pt2")
    (theirs,) = exported.predict([Path("halves.mp4")], evidence=True)
    assert exported.model.classes == made.CLASSES
    np.testing.assert_allclose(theirs.probabilities, ours.probabilities, atol=1e-6)
    assert theirs.evidence.alone
    assert theirs.evidence.probabilities.argmax(1)[[0, -1]].tolist() == [0, 1]

    made.save(made.random_model(Path("tsn.pt"), arch="i3ds_tiny"), Path("tsn.pt"), clips=CLIPS)
    assert main(["export", "tsn.pt", "--out", "tsn.pt2", "--size", "32"]) == 0
    both = [
        next(Predictor(f"tsn.{kind}", crop_size=32).predict([Path("halves.mp4")])).probabilities
        for kind in ("pt", "pt2")
    ]
    np.testing.assert_allclose(both[1], both[0], atol=1e-6)  # the mean over ten units, each by itself

    bare = Predictor("bare.pt2", made.write_config(clips=CLIPS))  # it does not say how it is to be fed
    assert (bare.model.units, bare.model.frames) == (2, 3)
    assert bare.model.classes == ["class 0", "class 1", "class 2", "class 3"]
    (theirs,) = bare.predict([Path("halves.mp4")])
    assert set(theirs.probabilities.argsort()[-2:]) == {0, 1}

    assert main(["explain", "halves.mp4", "--checkpoint", "colour.pt2", "--out", "x.png"]) == 1
    assert "an exported program has no gradients" in capsys.readouterr().err
    Path("damaged.pt2").write_bytes(Path("colour.pt2").read_bytes()[:1000])
    assert main(["predict", "halves.mp4", "--checkpoint", "damaged.pt2"]) == 1
    assert "damaged.pt2 is no exported network of ours" in capsys.readouterr().err
