"""What is refused before a training's processes start, and what they are started with."""

from pathlib import Path

import pytest
import torch

from tests.support.damages import DAMAGES, cut
from tests.support.project import TINY, assert_one_line_error, run, write_config
from v4d import config as configs
from v4d.errors import V4DError
from v4d.training import start as starting
from v4d.training.init_weights import initial_weights
from v4d.utils.files import write_json

STAGES = [
    {"name": "first"},
    {"name": "second"},
    {"name": "third", "arch": "v4d_resnet18", "init": "imagenet"},
]


@pytest.fixture(autouse=True)
def project(tiny, monkeypatch) -> Path:
    """A folder with a config and a finished data set."""
    monkeypatch.chdir(tiny)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    write_config(tiny, configs.merge(TINY, {"models": {"v4d": {"stages": STAGES}}}))
    return tiny


def start(stage: str | None = None, processes: int = 1) -> int:
    config = configs.load("config.yaml")
    model = config.model("v4d")
    chosen = model.stage(stage) if stage else model.final
    return starting.start(config, model, chosen, config_file="config.yaml", processes=processes)


@pytest.fixture
def launched(monkeypatch) -> list:
    calls = []
    monkeypatch.setattr(starting, "launch", lambda *arguments: calls.append(arguments) or 75)
    return calls


def test_its_processes_are_told_what_to_train(launched):
    assert start("first", processes=3) == 75
    words = ["--config", "config.yaml", "--model", "v4d", "--stage", "first"]
    assert launched == [("v4d.training.worker", words, 3)]


def test_a_stage_needs_the_weights_of_the_one_before(launched):
    with pytest.raises(V4DError, match=r"no such checkpoint: .*first/final.pt; train stage 'first' first"):
        start("second")
    write_json("results/tiny/v4d/first/final.pt", {})
    assert start("second") == 75


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"checkpoint": "model.pt"}, "models.v4d.checkpoint is set: this model is tested, not trained"),
        ({"init": "weights.pt"}, "models.v4d: init: no such file: weights.pt"),
    ],
)
def test_a_model_that_cannot_start_is_refused(project, launched, model, message):
    write_config(project, configs.merge(TINY, {"models": {"v4d": model}}))
    with pytest.raises(V4DError, match=message):
        start()
    assert launched == []


def test_a_data_set_that_is_not_finished_is_refused(project, launched):
    Path("data/tiny/dataset.json").unlink()
    with pytest.raises(V4DError, match=r"no such file: data/tiny/dataset\.json"):
        start()
    assert launched == []


@pytest.mark.parametrize("damage", ["a row twice", "two class names swapped", "fingerprint edited"])
def test_a_data_set_that_was_changed_is_refused_in_one_line(project, damage):
    name, harm, command = DAMAGES[damage]
    harm(project / "data/tiny" / name)
    words = ("train", "--config", "config.yaml", "--model", "v4d", "--stage", "first")
    assert_one_line_error(run(*words, cwd=project, check=False), command)
    assert not (project / "results").exists()


def test_the_shards_of_both_splits_are_looked_at(project, launched):
    shard = project / "data/tiny/frames/val/part_0.lmdb"
    cut(shard)
    with pytest.raises(V4DError, match=r"val/part_0.lmdb is truncated .*`v4d verify` says how"):
        start("first")
    assert launched == []


def test_init_names_weights():
    config = configs.load("config.yaml")
    model = config.model("v4d")
    found = [initial_weights(config, model, stage) for stage in model.stages]
    assert found == ["scratch", Path("results/tiny/v4d/first/final.pt"), "imagenet"]
