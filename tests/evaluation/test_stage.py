"""The test stage, whole: real shards, real processes, models whose answers are known."""

import copy
import dataclasses
import json
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import confusion_matrix

from tests.support import made_by_hand as made
from tests.support.processes import start
from v4d.checkpoints import load_any, load_finished
from v4d.cli import main
from v4d.data.batch import normalise
from v4d.data.sampling import eval_indices
from v4d.data.shards import ShardReader
from v4d.evaluation import results, stage, video_scores
from v4d.evaluation.pieces import TestRun
from v4d.evaluation.views import order_positions
from v4d.models.cost import gmac_of

FEW = {"synthetic": {"videos": {"val": 4}}}
"""A data set of four videos, for tests that a larger one would tell no more."""
FILES = {"predictions.parquet", "metrics.json", "per_class.csv", "confusion.png"}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def without_plots(monkeypatch):
    """For tests of what is drawn, not of the drawing, which takes half of the time."""
    monkeypatch.setattr(results, "draw", lambda *_: None)


def run_test(model: str = "colour", processes: int | None = None) -> Path:
    """`v4d test` with so many processes, or what a single one runs, here; the folder of its results."""
    words = ["--config", "config.yaml", "--model", model]
    if processes is None:
        assert stage.main(words) == 0
    else:
        assert main(["test", *words, "--nproc", str(processes)]) == 0
    return Path("results/hand") / model / "test"


def probabilities(table: pd.DataFrame, end: str = "") -> np.ndarray:
    return np.stack(table[f"probabilities{end}"])


def known_scores(video_id: str) -> np.ndarray:
    """What `colour_model` must say, from the decoded pixels."""
    reader = next(r for r in readers() if video_id in r.video_ids)
    pixels = reader.frames(video_id, [0])[0].reshape(-1, 3).mean(0) / 255
    features = np.maximum((pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225], 0)
    logits = np.append(10 * features, 1)
    scores = np.exp(logits - logits.max())
    return scores / scores.sum()


def readers() -> list[ShardReader]:
    return [ShardReader(path) for path in sorted(Path("data/colours/frames/val").glob("*.lmdb"))]


@pytest.mark.slow
def test_a_model_with_known_answers_gives_the_exact_table():
    config = made.write_config(dataset={"synthetic": {"videos": {"val": 15}}})
    made.write_data(config, made.coloured_videos(13), bad={"lost": "missing", "broken": "corrupt"})
    made.colour_model()
    folder = run_test()
    table = pq.read_table(folder / "predictions.parquet").to_pandas()

    assert table["video_id"].tolist() == [f"video_{n:03d}" for n in range(13)]
    assert table["class_index"].tolist() == [n % 4 for n in range(13)]
    assert table["part"].tolist() == ["part_0"] * 7 + ["part_1"] * 6
    expected = np.stack([known_scores(name) for name in table["video_id"]])
    for end in ("", "_units_reversed", "_frames_reversed"):
        np.testing.assert_allclose(probabilities(table, end), expected, atol=2e-4)
    shown = [(n + 1) % 4 if n % 5 == 4 else n % 4 for n in range(13)]
    assert table["predicted_index"].tolist() == shown
    assert table["predicted_label"].tolist() == [made.CLASSES[n] for n in shown]

    result = json.loads((folder / "metrics.json").read_text())
    right = [n for n in range(13) if n % 5 != 4]
    assert result["videos"] == 13
    assert result["top1"] == pytest.approx(100 * len(right) / 13)
    assert result["top5"] == 100
    assert result["test_seconds_per_video"] > 0
    network = load_any(Path("colour.pt")).model
    x = torch.empty(1, 5, 3, 3, 32, 32, device="meta")
    one_crop = gmac_of(network, 3, lambda model: video_scores(model, x, chunk=64))
    assert result["test_gmac"] == pytest.approx(3 * one_crop, abs=1e-4)
    assert result["top1_interval"][0] < result["top1"] < result["top1_interval"][1]
    assert set(result["orders"]) == {"normal", "units_reversed", "frames_reversed"}
    assert result["by_units"]["2"]["top1"] == result["by_units"]["5"]["top1"] == result["top1"]
    counts = pd.read_csv(folder / "confusion.csv").drop(columns="label").to_numpy()
    assert (counts == confusion_matrix([n % 4 for n in range(13)], shown)).all()
    assert {path.name for path in folder.iterdir()} >= FILES
    assert not (folder / "pieces").exists()


@pytest.mark.usefixtures("without_plots")
def test_orders_and_crops_and_units_are_what_they_say():
    """Every score by the long way round: indices in the other order, read and cropped one by one."""
    orders = ["normal", "units_reversed", "frames_reversed", "both_reversed", "units_shuffled"]
    config = made.write_config(
        dataset=FEW,
        models={
            "v4d": {"arch": "v4d_tiny", "units": 2, "frames": 3, "frame_stride": 2, "checkpoint": "v4d.pt"}
        },
        testing={"orders": orders},
        seed=3,
    )
    made.write_data(config, made.moving_videos(4))
    model = made.random_model(Path("v4d.pt"))
    table = pq.read_table(run_test("v4d") / "predictions.parquet").to_pandas().set_index("video_id")
    for video_id in ("video-000", "video-003"):
        reader = next(r for r in readers() if video_id in r.video_ids)
        indices = eval_indices(40, 5, 3, 2)
        for order in orders:
            positions = order_positions(order, 5, 3, seed=3, video_id=video_id)
            shown = reader.frames(video_id, indices.reshape(-1)[positions].reshape(-1))
            frames = torch.from_numpy(shown).unflatten(0, (5, 3))
            crops = [normalise(frames[None, :, :, :, left : left + 32], model.input) for left in (0, 8, 16)]
            expected = torch.stack([video_scores(model, crop)[0] for crop in crops]).mean(0)
            end = "" if order == "normal" else f"_{order}"
            np.testing.assert_allclose(table[f"probabilities{end}"][video_id], expected, atol=1e-5)
            if order == "normal":  # fewer units, evenly spaced, are seen in the middle crop
                for count, units in {2: [0, 2], 4: [0, 1, 2, 3], 5: [0, 1, 2, 3, 4]}.items():
                    best = video_scores(model, crops[1][:, units])[0].max().item()
                    assert table[f"confidence_{count}_units"][video_id] == pytest.approx(best, abs=1e-5)
    scores = np.stack([np.stack(table[name]) for name in table if name.startswith("probabilities")])
    assert (np.abs(scores - scores[0]).max((1, 2))[1:] > 1e-3).all()  # this model looks at order


@pytest.mark.slow
@pytest.mark.usefixtures("without_plots")
def test_batches_and_chunks_change_nothing_beyond_rounding():
    models = {"v4d": {"arch": "v4d_tiny", "units": 2, "frames": 3, "frame_stride": 2, "checkpoint": "v4d.pt"}}
    made.random_model(Path("v4d.pt"))
    scores = []
    for batch_size, chunk in ((4, 64), (1, 64), (3, 2)):
        testing = {"batch_size": batch_size, "chunk": chunk}
        config = made.write_config(models=models, dataset=FEW, testing=testing)
        if not scores:
            made.write_data(config, made.moving_videos(4))
        table = pq.read_table(run_test("v4d") / "predictions.parquet").to_pandas()
        scores.append(probabilities(table))
    np.testing.assert_allclose(scores[1], scores[0], atol=1e-5)
    np.testing.assert_allclose(scores[2], scores[0], atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("without_plots")
def test_centre_crop_short_side_one_pass_and_bf16():
    """Other protocols of the config, each against the long way round."""
    models = {"v4d": {"arch": "v4d_tiny", "units": 2, "frames": 3, "frame_stride": 2, "checkpoint": "v4d.pt"}}
    model = made.random_model(Path("v4d.pt"))
    config = made.write_config(models=models, dataset=FEW, testing={"crops": 1, "orders": ["normal"]})
    made.write_data(config, made.moving_videos(4))
    frames = torch.from_numpy(readers()[0].frames("video-003", eval_indices(40, 5, 3, 2).reshape(-1)))
    x = normalise(frames.unflatten(0, (5, 3))[None, :, :, :, 8:40], model.input)

    def tested(**testing) -> np.ndarray:
        testing = {"crops": 1, "orders": ["normal"], **testing}
        made.write_config(models=models, dataset=FEW, testing=testing)
        table = pq.read_table(run_test("v4d") / "predictions.parquet").to_pandas().set_index("video_id")
        return table.loc["video-003", "probabilities"]

    centre = video_scores(model, x)[0]
    np.testing.assert_allclose(tested(), centre, atol=1e-5)
    np.testing.assert_allclose(tested(crop_size=None), centre, atol=1e-5)  # the frame's short side
    np.testing.assert_allclose(tested(short_side=32), centre, atol=1e-5)  # which they have already
    one_pass = video_scores(model, x, combinations=False)[0]
    np.testing.assert_allclose(tested(combinations=False), one_pass, atol=1e-5)
    assert (one_pass - centre).abs().max() > 1e-4
    together = [
        video_scores(model, crop, combinations="all_units", average="logits")[0]
        for crop in (
            x,
            *(
                normalise(frames.unflatten(0, (5, 3))[None, :, :, :, s : s + 32], model.input)
                for s in (0, 16)
            ),
        )
    ]
    logits = {"combinations": "all_units", "average": "logits"}
    np.testing.assert_allclose(tested(**logits), together[0].softmax(-1), atol=1e-5)
    three = torch.stack(together).mean(0).softmax(-1)  # one softmax, behind the mean over crops
    np.testing.assert_allclose(tested(**logits, crops=3), three, atol=1e-5)
    np.testing.assert_allclose(tested(precision="bf16"), centre, atol=0.1)


@pytest.mark.slow
def test_any_number_of_ranks_and_a_kill_in_the_middle_give_identical_files(capfd):
    config = made.write_config(testing={"batch_size": 1, "orders": ["normal"]})
    made.write_data(config, made.moving_videos(12))
    made.colour_model()
    undisturbed = (run_test() / "predictions.parquet").read_bytes()
    folder = config.paths.test("colour")
    (folder / "predictions.parquet").unlink()

    alone = start(stage.main, ["--config", "config.yaml", "--model", "colour"])
    while len(list(folder.glob("pieces/0*.parquet"))) < 3 and alone.is_alive():
        time.sleep(0.001)
    alone.kill()
    alone.join()
    assert alone.exitcode == -signal.SIGKILL
    done = len(list(folder.glob("pieces/0*.parquet")))
    assert 3 <= done < 12
    capfd.readouterr()

    assert (run_test(processes=2) / "predictions.parquet").read_bytes() == undisturbed
    assert json.loads((folder / "metrics.json").read_text())["processes"] == 2
    assert f"{done} of 12 pieces are done" in capfd.readouterr().err


def test_what_decides_about_predictions_is_in_the_plan():
    """A released checkpoint has the units that the config gives it: the same file is another network."""
    made.write_data(made.write_config(), made.coloured_videos(12))
    made.colour_model()

    def work(**overlay) -> TestRun:
        config = made.write_config(**overlay)
        return TestRun(config, config.model("colour"), torch.device("cpu"))

    def altered(run: TestRun, **changes) -> TestRun:
        other = copy.copy(run)
        vars(other).update(changes)
        return other

    first = work()
    plan, finished = first.plan(), first.finished
    for same in ({}, {"testing": {"workers": 0}}, {"testing": {"chunk": 2}}):
        assert work(**same).plan() == plan
    decoding = [work(training={"decode_on": where}) for where in ("host", "device")]
    assert decoding[0].plan() == decoding[1].plan()  # on a CPU the same frames
    on_a_gpu = [altered(each, device=torch.device("cuda")).plan() for each in decoding]
    assert on_a_gpu[0] != on_a_gpu[1] and "decode_on" not in on_a_gpu[0]
    others = [work(testing=other) for other in ({"units": 4}, {"crops": 1}, {"sampling": "centred"})]
    others += [work(seed=1), work(testing={"batch_size": 3}), work(testing={"precision": "bf16"})]
    others += [altered(first, videos=first.videos[:-1])]
    for change in ({"architecture": finished.architecture | {"units": 1}}, {"frame_stride": 3}):
        others += [altered(first, finished=dataclasses.replace(finished, **change))]
    plans = [other.plan() for other in others]
    made.random_model(Path("colour.pt"))
    plans.append(work().plan())
    made.colour_model()
    info = Path("data/colours/dataset.json")
    info.write_text(json.dumps(json.loads(info.read_text()) | {"fingerprint": "another"}))
    plans.append(work().plan())
    assert all(other != plan for other in plans)
    assert len({json.dumps(other) for other in plans}) == len(plans)


@pytest.mark.usefixtures("without_plots")
def test_pieces_of_another_test_are_not_taken_over():
    config = made.write_config(dataset=FEW, testing={"batch_size": 1})
    made.write_data(config, made.coloured_videos(4))
    made.colour_model()
    folder = run_test()
    right = (folder / "predictions.parquet").read_bytes()
    pieces = folder / "pieces"
    pieces.mkdir()
    (pieces / "plan.json").write_text("{}")
    table = pq.read_table(folder / "predictions.parquet")
    pq.write_table(table.slice(3, 1), pieces / "000000.parquet")
    assert (run_test() / "predictions.parquet").read_bytes() == right


@pytest.mark.usefixtures("without_plots")
def test_one_video_shorter_than_a_unit_and_classes_without_any():
    config = made.write_config()
    lost = {f"lost_{n}": "corrupt" for n in range(11)}
    made.write_data(config, [("only", 2, made.plain(made.COLOURS["blue"], 3))], bad=lost)
    made.colour_model()
    folder = run_test()
    result = json.loads((folder / "metrics.json").read_text())
    assert (result["videos"], result["top1"], result["mean_class"]) == (1, 100, 100)
    assert result["classes_without_videos"] == 3
    per_class = pd.read_csv(folder / "per_class.csv")
    assert per_class["videos"].tolist() == [0, 0, 1, 0]
    assert per_class["top1"].isna().tolist() == [True, True, False, True]


@pytest.mark.slow
@pytest.mark.usefixtures("without_plots")
def test_the_last_epoch_or_the_best_one(capsys):
    models = {"v4d": {"arch": "v4d_tiny", "units": 2, "frames": 3, "frame_stride": 2}}
    config = made.write_config(models=models, dataset=FEW)
    made.write_data(config, made.moving_videos(4))
    folder = config.paths.stage("v4d", "main")
    made.random_model(folder / "final.pt")
    scores = [probabilities(pq.read_table(run_test("v4d") / "predictions.parquet").to_pandas())]
    made.write_config(models=models, dataset=FEW, testing={"checkpoint": "best"})
    assert main(["test", "--config", "config.yaml", "--model", "v4d"]) == 1
    assert "no such file: results/hand/v4d/main/checkpoints/best.pt" in capsys.readouterr().err
    made.random_model(folder / "checkpoints/best.pt", seed=1)
    scores.append(probabilities(pq.read_table(run_test("v4d") / "predictions.parquet").to_pandas()))
    made.random_model(folder / "final.pt", seed=1)
    made.write_config(models=models, dataset=FEW)
    scores.append(probabilities(pq.read_table(run_test("v4d") / "predictions.parquet").to_pandas()))
    assert (scores[1] == scores[2]).all() and (scores[0] != scores[1]).any()


@pytest.mark.usefixtures("without_plots")
def test_a_model_with_more_units_than_the_test_asks_for_gets_its_own():
    config = made.write_config(
        dataset=FEW,
        models={
            "long": {"arch": "i3ds_tiny", "units": 6, "frames": 2, "frame_stride": 2, "checkpoint": "long.pt"}
        },
    )
    made.write_data(config, made.coloured_videos(4))
    made.colour_model(Path("long.pt"), arch="i3ds_tiny", units=6, frames=2)
    result = json.loads((run_test("long") / "metrics.json").read_text())
    assert result["test_units"] == 6
    assert list(result["by_units"]) == ["6"]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["red", "green", "blue", "white"], "it lacks 'black'; only it has 'white'"),
        (["green", "red", "blue", "black"], "another order: class 0 is 'green', not 'red'"),
    ],
)
def test_a_checkpoint_with_other_classes_is_refused_with_the_difference(capsys, classes, message):
    config = made.write_config()
    made.write_data(config, made.coloured_videos(12))
    made.save(made.colour_model(), Path("colour.pt"), classes)
    assert main(["test", "--config", "config.yaml", "--model", "colour"]) == 1
    assert message in capsys.readouterr().err
    assert not config.paths.test("colour").exists()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"arch": "i3ds_tiny"}, "arch is 'v4d_tiny', the config's is 'i3ds_tiny'"),
        ({"preset": "paper"}, "preset is 'released', the config's is 'paper'"),
        ({"kernel": [3, 1, 1, 1]}, "kernel is [3, 3, 1, 1], the config's is [3, 1, 1, 1]"),
        ({"blocks": {"res3": [1]}}, "blocks is {'res3': [1], 'res4': [1]}, the config's is {'res3': [1]}"),
        ({"units": 4, "frames": 2, "dropout": 0.1}, ""),
    ],
)
def test_a_checkpoint_of_another_network_than_the_config_s_is_refused(capsys, model, message):
    config = made.write_config(models={"colour": model})
    made.colour_model()
    path = Path("colour.pt")
    if not message:
        assert load_finished(path, config.models["colour"].final, made.CLASSES).units == 2
        return
    made.write_data(config, made.coloured_videos(12))
    assert main(["test", "--config", "config.yaml", "--model", "colour"]) == 1
    error = f"v4d test: error: {path} holds another network than the config names: {message}"
    assert capsys.readouterr().err.splitlines() == [error]


def test_without_4d_blocks_a_preset_is_no_difference():
    """The stage `backbone` of the paper's config is tested by a model that names no preset."""
    made.save(made.random_model(Path("tsn.pt"), arch="i3ds_tiny"), Path("tsn.pt"))
    models = {"colour": {"arch": "i3ds_tiny", "preset": "paper", "kernel": [3, 1, 1, 1]}}
    final = made.write_config(models=models).models["colour"].final
    assert load_finished(Path("tsn.pt"), final, made.CLASSES).classes == made.CLASSES


def test_a_network_whose_scores_are_no_numbers_is_right_about_nothing(capsys):
    config = made.write_config()
    made.write_data(config, made.coloured_videos(12))
    model = made.colour_model()
    with torch.no_grad():
        model.fc.weight.fill_(3e38)  # a number, but no sum of these is
    made.save(model, Path("colour.pt"))
    assert stage.main(["--config", "config.yaml", "--model", "colour"]) == 1
    line = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert line == ["v4d test: error: video video_000: the network's scores are not finite; are its weights?"]
    assert not (config.paths.test("colour") / "metrics.json").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("without_plots")
def test_a_class_may_have_any_name():
    """Names of columns, of values that pandas takes for missing, and numbers."""
    config = made.write_config()
    classes = ["label", "nan", "007", "videos"]
    made.write_data(config, made.coloured_videos(12), classes=classes)
    made.save(made.colour_model(), Path("colour.pt"), classes)
    folder = run_test()
    assert (folder / "confusion.csv").read_text().splitlines()[0] == "label,label,nan,007,videos"
    counts = pd.read_csv(folder / "confusion.csv", header=None, skiprows=1).iloc[:, 1:].to_numpy()
    assert (counts.sum(1) == 3).all() and counts.trace() == 10


@pytest.mark.slow
def test_a_test_with_fewer_units_leaves_no_plot_of_the_one_before():
    config = made.write_config(dataset=FEW)
    made.write_data(config, made.coloured_videos(4))
    made.colour_model()
    assert (run_test() / "by_units.png").exists()
    made.write_config(dataset=FEW, testing={"units": 2})
    assert not (run_test() / "by_units.png").exists()


@pytest.mark.slow
def test_what_cannot_be_tested_is_said_in_one_line(capfd):
    config = made.write_config(models={"new": {"arch": "v4d_tiny", "units": 2, "frames": 3}})
    for model, message in {
        "colour": "models.colour.checkpoint: no such file: colour.pt",
        "new": "model 'new' is not trained: no such file: results/hand/new/main/final.pt",
        "other": "no model 'other' in config 'hand'",
    }.items():
        assert main(["test", "--config", "config.yaml", "--model", model]) == 1
        line = capfd.readouterr().err
        assert message in line
        assert line.count("\n") == 1
    made.write_data(config, made.coloured_videos(12))
    made.colour_model()
    Path("results/hand/colour").mkdir(parents=True)
    Path("results/hand/colour/test").write_text("in the way")
    capfd.readouterr()
    assert main(["test", "--config", "config.yaml", "--model", "colour", "--nproc", "2"]) == 1
    lines = capfd.readouterr().err.splitlines()
    assert "v4d test: error: cannot write in results/hand/colour/test: File exists" in lines
    assert not any("Traceback" in line for line in lines)  # of the other rank
    Path("colour.pt").write_bytes(b"not a checkpoint")
    assert main(["test", "--config", "config.yaml", "--model", "colour"]) == 1
    assert "colour.pt is no readable checkpoint" in capfd.readouterr().err
