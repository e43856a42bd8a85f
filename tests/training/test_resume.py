"""A training killed with -9 at any step, and resumed, is the same as one that was left alone."""

import os
import shutil
import signal
from collections import defaultdict
from pathlib import Path

import mlflow
import pytest
import torch
from mlflow import MlflowClient

from tests.support.processes import start
from tests.support.project import TINY, assert_one_line_error, write_config
from tests.support.project import train as run_stage
from v4d import config as configs
from v4d.distributed.group import DistributedContext
from v4d.models.checkpoint import load_model
from v4d.training.step import TrainStep
from v4d.training.trainer import Trainer

pytestmark = pytest.mark.slow

STEPS = 10  # 20 videos, 4 a step, 2 epochs
TRACKED = {"backend": "mlflow", "log_model": False, "system_metrics": False}


def train(project: Path, kill_at: int | None = None, stage: str = "main") -> int:
    """Train in a child process, which kills itself in front of a step; its exit code."""
    child = start(_train, project, kill_at, stage)
    child.join(120)
    assert child.exitcode is not None
    return child.exitcode


def _train(project: Path, kill_at: int | None, stage: str) -> None:
    os.chdir(project)
    steps = 0
    step = TrainStep.step

    def counted(*args, **kwargs):
        nonlocal steps
        if steps == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        steps += 1
        return step(*args, **kwargs)

    TrainStep.step = counted
    Trainer(configs.load("config.yaml"), "v4d", stage, DistributedContext(0, 1, torch.device("cpu"))).run()


def outcome(project: Path) -> tuple[dict[str, torch.Tensor], dict[str, list[tuple[int, float]]]]:
    """Final weights, and the curves as MLflow has them; how fast the machine was does not count."""
    weights = load_model(project / "results/tiny/v4d/main/final.pt").model.state_dict()
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("v4d/tiny").experiment_id])
    assert len(runs) == 1
    curves: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for key in runs[0].data.metrics:
        if not key.startswith("perf/"):
            history = client.get_metric_history(runs[0].info.run_id, key)
            curves[key] = sorted((point.step, point.value) for point in history)
    return weights, curves


def project_with(data: Path, folder: Path, **training) -> Path:
    shutil.copytree(data, folder)
    document = configs.merge(TINY, {"tracking": TRACKED, "training": training})
    write_config(folder, document)
    return folder


@pytest.fixture(scope="module")
def tiny_data(tiny_data, mlflow_database, tmp_path_factory):
    """With the tables of a database, which each training here would make anew."""
    folder = tmp_path_factory.mktemp("resume") / "data"
    shutil.copytree(tiny_data, folder)
    shutil.copy(mlflow_database, folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(tiny_data, tmp_path_factory):
    project = project_with(tiny_data, tmp_path_factory.mktemp("resume") / "undisturbed")
    assert train(project) == 0
    return outcome(project)


FIRST = (0, 1, 4, 5, 8)
"""At the beginning; before the first checkpoint; at one; at the end of an epoch; between two checkpoints."""


@pytest.mark.parametrize(
    "kill_at",
    [pytest.param(step, marks=() if step in FIRST else pytest.mark.long) for step in range(STEPS)],
)
def test_killed_and_resumed_is_the_same_to_the_last_bit(tiny_data, tmp_path, undisturbed, kill_at):
    # A checkpoint at every second step; the resumed training loads with another number of workers.
    project = project_with(tiny_data, tmp_path / "p", checkpoint_minutes=1e-9)
    assert train(project, kill_at) == -signal.SIGKILL
    assert not (project / "results/tiny/v4d/main/final.pt").exists()
    workers = 1 if kill_at == 5 else 0
    changed = {"tracking": TRACKED, "training": {"checkpoint_minutes": 1e-9, "workers": workers}}
    write_config(project, configs.merge(TINY, changed))
    assert train(project) == 0
    weights, curves = outcome(project)
    expected_weights, expected_curves = undisturbed
    assert weights.keys() == expected_weights.keys()
    for name, value in expected_weights.items():
        assert torch.equal(weights[name], value), name
    assert curves == expected_curves


EVERYTHING = {
    "accumulate": 2,
    "mixup": 0.3,
    "ema": 0.9,
    "label_smoothing": 0.1,
    "precise_bn_videos": 8,
    "clip_grad_norm": 1.0,
    "locality": 2,
    "checkpoint_activations": True,
    "optimizer": {"name": "adamw", "lr": 0.01},
    "crop": {"kind": "random_resized", "flip": 0.5},
    "checkpoint_minutes": 1e-9,
    "log_steps": 1,
}


def test_with_every_option_on_it_is_the_same_too(tiny_data, tmp_path):
    whole = project_with(tiny_data, tmp_path / "whole", **EVERYTHING)
    assert train(whole) == 0
    killed = project_with(tiny_data, tmp_path / "killed", **EVERYTHING)
    for moment in (3, 4):  # in the first epoch, and once more in the second
        assert train(killed, kill_at=moment) == -signal.SIGKILL
    # What only costs less may change in between: the weights are the same to the last bit.
    cheaper = EVERYTHING | {"checkpoint_activations": False, "decode_on": "device"}
    write_config(killed, configs.merge(TINY, {"tracking": TRACKED, "training": cheaper}))
    assert train(killed) == 0
    (weights, curves), (expected_weights, expected_curves) = outcome(killed), outcome(whole)
    assert all(torch.equal(weights[name], value) for name, value in expected_weights.items())
    assert curves == expected_curves


def test_a_training_of_an_older_version_goes_on_under_its_rules(tiny_data, tmp_path):
    """An average without correction, crops without the released snap, a mixup that mixes nothing."""
    settings = {"ema": 0.9, "checkpoint_minutes": 1e-9, "accumulate": 4, "epochs": 1, "log_steps": 1}
    project = project_with(tiny_data, tmp_path / "p", **settings)
    assert train(project, kill_at=3) == -signal.SIGKILL
    last = project / "results/tiny/v4d/main/checkpoints/last.pt"
    state = torch.load(last, weights_only=True)
    assert (state.pop("rules"), state.pop("average_steps")) == (2, 3)
    state["settings"]["mixup"] = 0.5  # of one video a pass, which a new training may not have
    torch.save(state, last)
    write_config(project, configs.merge(configs.read(project / "config.yaml"), {"training": {"mixup": 0.5}}))
    assert train(project) == 0
    state = torch.load(last, weights_only=True)
    assert (state["rules"], state["average_steps"], state["epoch"]) == (1, None, 1)
    assert not list(last.parent.glob("superseded-*"))


def test_the_curves_are_whole(undisturbed):
    _, curves = undisturbed
    assert [step for step, _ in curves["val/top1"]] == [1, 2]
    assert [step for step, _ in curves["train_step/loss"]] == [2, 4, 5, 7, 9, 10]
    assert {"train/loss", "train/top1", "train/lr", "val/loss", "val/top5"} <= set(curves)


def test_three_seeds_give_three_results_and_each_the_same_again(tiny_data, tmp_path, undisturbed):
    classifiers = [undisturbed[0]["fc.weight"]]
    for name, seed in (("first", 1), ("other", 2), ("again", 1)):
        project = project_with(tiny_data, tmp_path / name)
        write_config(project, configs.merge(TINY, {"tracking": TRACKED, "seed": seed}))
        assert train(project) == 0
        classifiers.append(outcome(project)[0]["fc.weight"])
    zero, one, two, again = classifiers
    assert torch.equal(one, again)
    assert not any(torch.equal(*pair) for pair in ((zero, one), (zero, two), (one, two)))


def test_other_settings_train_anew_in_a_new_run_and_nothing_is_lost(tiny_data, tmp_path):
    project = project_with(tiny_data, tmp_path / "p")
    assert train(project) == 0
    first = (project / "results/tiny/v4d/mlflow_run.json").read_text()
    changed = {"tracking": TRACKED, "training": {"optimizer": {"lr": 0.01}}}
    write_config(project, configs.merge(TINY, changed))
    assert train(project) == 0
    aside = list((project / "results/tiny/v4d/main/checkpoints").glob("superseded-*"))
    assert len(aside) == 1 and (aside[0] / "last.pt").exists()
    assert (aside[0] / "mlflow_run.json").read_text() == first
    client = mlflow.MlflowClient(f"sqlite:///{project}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("v4d/tiny").experiment_id])
    assert sorted(run.data.params["main/optimizer.lr"] for run in runs) == ["0.01", "0.05"]


def two_stages(tiny_data: Path, folder: Path) -> Path:
    """A project that has trained the first of its two stages, which are alike."""
    project = project_with(tiny_data, folder)
    model = {"stages": [{"name": "first"}, {"name": "second"}]}
    changes = {"training": {"epochs": 1, "checkpoint_minutes": 1e-9}, "models": {"v4d": model}}
    write_config(project, configs.merge(TINY, changes))
    assert train(project, stage="first") == 0
    return project


def drawn(trainer: Trainer) -> list[tuple[list[str], torch.Tensor]]:
    """The videos and pixels of an epoch's batches."""
    return [(batch.video_id, batch.frames) for batch in trainer._train_loader()]


def test_no_two_stages_draw_the_same_and_the_first_draws_as_ever(tiny_data, tmp_path, monkeypatch):
    monkeypatch.chdir(two_stages(tiny_data, tmp_path / "p"))
    config, alone = configs.load("config.yaml"), DistributedContext(0, 1, torch.device("cpu"))
    first, second = (Trainer(config, "v4d", stage, alone) for stage in ("first", "second"))
    assert first.draws == config.seed != second.draws
    before, behind = drawn(first), drawn(second)
    assert [videos for videos, _ in before] != [videos for videos, _ in behind]
    pixels = [
        {name: frames[n] for videos, frames in epoch for n, name in enumerate(videos)}
        for epoch in (before, behind)
    ]
    assert pixels[0].keys() == pixels[1].keys()
    same = [torch.equal(pixels[0][name], pixels[1][name]) for name in pixels[0]]
    assert sum(same) < len(same) / 4


@pytest.mark.parametrize("older", [False, True])
def test_a_later_stage_that_was_interrupted_goes_on_with_its_own_draws(tiny_data, tmp_path, older):
    """One that an older version has begun goes on with that one's: in every stage those of the first."""
    project = two_stages(tiny_data, tmp_path / "p")
    shutil.copytree(project, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        if older:
            patch.setattr("v4d.training.trainer.drawing_seed", lambda seed, stage: seed)
        assert train(tmp_path / "whole", stage="second") == 0
        assert train(project, kill_at=3, stage="second") == -signal.SIGKILL
    if older:
        last = project / "results/tiny/v4d/second/checkpoints/last.pt"
        state = torch.load(last, weights_only=True)
        del state["draws"]
        torch.save(state, last)
    assert train(project, stage="second") == 0
    weights, expected = (
        load_model(folder / "results/tiny/v4d/second/final.pt").model.state_dict()
        for folder in (project, tmp_path / "whole")
    )
    assert all(torch.equal(weights[name], value) for name, value in expected.items())


def test_a_stage_is_trained_anew_after_the_one_before_it(tiny_data, tmp_path):
    """Its own settings are the same, and its checkpoints are those of other weights."""
    stages = [{"name": "one"}, {"name": "two", "training": {"batch_size": 10}}]
    document = configs.merge(TINY, {"models": {"v4d": {"stages": stages}}, "tracking": TRACKED})
    document = configs.merge(document, {"training": {"epochs": 1, "log_steps": 1}})
    project = project_with(tiny_data, tmp_path / "p")
    ends = []
    for smoothing in (0.0, 0.2):
        stages[0]["training"] = {"label_smoothing": smoothing}
        write_config(project, document)
        assert [train(project, stage=name) for name in ("one", "two")] == [0, 0]
        model = load_model(project / "results/tiny/v4d/two/final.pt").model
        ends.append(model.stem.conv.weight)
    assert not torch.equal(*ends)
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("v4d/tiny").experiment_id])
    assert len(runs) == 2  # as first trained, and anew
    for run in runs:  # 5 steps and 2, behind one another
        points = client.get_metric_history(run.info.run_id, "train_step/loss")
        assert sorted(point.step for point in points) == [1, 2, 3, 4, 5, 6, 7]


def test_killed_in_the_validation_it_does_not_train_the_epoch_again(tiny_data, tmp_path, undisturbed):
    project = project_with(tiny_data, tmp_path / "p", checkpoint_minutes=1e-9)
    assert train(project, kill_at=STEPS // 2) == -signal.SIGKILL
    folder = project / "results/tiny/v4d/main/checkpoints"
    states = [torch.load(folder / name, weights_only=True) for name in ("last.pt", "epoch_0001.pt")]
    assert [state["position"]["step"] for state in states] == [0, 0]
    state = states[0]
    state["position"] |= {"epoch": 0, "step": STEPS // 2, "history": [], "best": {}}
    state["position"]["sums"] = [5.0, 4.0, 20.0, 0.0]
    torch.save(state, folder / "last.pt")
    assert train(project) == 0
    weights, _ = outcome(project)
    assert all(torch.equal(weights[name], value) for name, value in undisturbed[0].items())


def test_a_finished_training_is_not_done_again(tiny_data, tmp_path):
    """Snakemake deletes outputs before it runs a rule again: the checkpoints give them back."""
    project = project_with(tiny_data, tmp_path / "p")
    assert train(project) == 0
    before = outcome(project)
    (project / "results/tiny/v4d/main/final.pt").unlink()
    assert train(project, kill_at=0) == 0  # it would be killed at its first step
    after = outcome(project)
    assert all(torch.equal(after[0][name], value) for name, value in before[0].items())
    assert after[1] == before[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage",
    [
        lambda state: state["model"].popitem(),
        lambda state: state["model"].update(surplus=torch.zeros(1)),
        lambda state: state["optimizer"]["param_groups"].pop(),
        lambda state: state["optimizer"].pop("state"),
        lambda state: state["position"].update(surplus=1),
        lambda state: state["position"].update(epoch=-5),
    ],
    ids=[
        "weight lacking",
        "weight too many",
        "group lacking",
        "no moments",
        "position odd",
        "negative epoch",
    ],
)
def test_a_state_that_does_not_fit_is_one_line_and_stays(tiny_data, tmp_path, damage):
    project = project_with(tiny_data, tmp_path / "p", checkpoint_minutes=1e-9)
    assert train(project, kill_at=3) == -signal.SIGKILL
    last = project / "results/tiny/v4d/main/checkpoints/last.pt"
    state = torch.load(last, weights_only=True)
    damage(state)
    torch.save(state, last)
    before = last.read_bytes()
    assert_one_line_error(run_stage(project, check=False), "checkpoints", "does not fit", "train anew")
    assert last.read_bytes() == before
