"""A network of a user's own, known by `plugins:` alone: trained, killed, resumed, tested, exported."""

import json
import shutil
import signal
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.support.project import TINY, run, run_rank, write_config
from tests.support.training import ALONE
from tests.training.test_resume import STEPS, train
from v4d import config as configs
from v4d.errors import V4DError
from v4d.evaluation import video_scores
from v4d.evaluation.explain import activation_maps
from v4d.evaluation.predict import Predictor
from v4d.evaluation.video_file import find_videos
from v4d.models import MODELS, create_model, freeze
from v4d.models.checkpoint import load_model, save_model
from v4d.models.export import read_exported
from v4d.training.init_weights import load_initial
from v4d.training.step import TrainStep

PLUGIN = '''
"""The order of units decides: each has a weight of its own."""
import torch
from torch import nn
from v4d.config import ArchOptions, key
from v4d.models import MODELS, Architecture, InputSpec, VideoModel

class Toy(VideoModel):
    input = InputSpec(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

    def __init__(self, *, width, **shape):
        super().__init__(width=width, **shape)
        self.conv = nn.Conv3d(3, width, 3, stride=(1, 4, 4), padding=1)
        self.bn = nn.BatchNorm3d(width)
        self.share = nn.Parameter(torch.linspace(0.5, 1.5, self.units))
        self.fc = nn.Linear(width, self.num_classes)

    def forward(self, x_NUCTHW):
        x = self.bn(self.conv(x_NUCTHW.flatten(0, 1))).relu().mean((2, 3, 4))
        return self.fc((x.unflatten(0, x_NUCTHW.shape[:2]) * self.share[:, None]).mean(1))

    def freezable(self):
        return {"conv": [self.conv, self.bn]}

class Options(ArchOptions):
    width: int = key(8, "Channels.", ge=1)

MODELS["toy"] = Architecture("toy_network:Toy", Options, ("conv",))
'''
TOY = {
    "name": "tiny",
    "plugins": ["toy_network"],
    "models": {"v4d": {"arch": "toy", "units": 2, "frames": 2, "frame_stride": 3, "width": 6}},
    "tracking": {"backend": "mlflow", "log_model": True, "system_metrics": False},
}


@pytest.fixture(scope="module")
def trained(tiny_data, tmp_path_factory):
    """A project with the plugin beside its config, whose training was killed in its middle and resumed."""
    project = tmp_path_factory.mktemp("plugin") / "project"
    shutil.copytree(tiny_data, project)
    (project / "toy_network.py").write_text(PLUGIN)
    document = {key: value for key, value in TINY.items() if key != "models"} | TOY
    document = configs.merge(document, {"training": {"checkpoint_minutes": 1e-9}})
    write_config(project, document)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(project))
        assert train(project, kill_at=STEPS // 2 + 2) == -signal.SIGKILL
        assert train(project) == 0
    return project


@pytest.fixture
def plugin(trained, monkeypatch):
    """The plugin in this process, as long as the test runs."""
    monkeypatch.chdir(trained)
    monkeypatch.syspath_prepend(str(trained))
    config = configs.load("config.yaml")
    yield config
    del MODELS["toy"], sys.modules["toy_network"]


def test_it_is_trained_and_tested_by_every_combination(plugin):
    epochs = json.loads(Path("results/tiny/v4d/main/metrics.json").read_text())["epochs"]
    assert [row["epoch"] for row in epochs] == [1, 2]
    run_rank("v4d.evaluation.stage", "--config", "config.yaml", "--model", "v4d", cwd=Path.cwd())
    result = json.loads(Path("results/tiny/v4d/test/metrics.json").read_text())
    assert (result["arch"], result["width"], result["videos"]) == ("toy", 6, 10)

    table = pq.read_table("results/tiny/v4d/test/predictions.parquet").to_pandas().set_index("video_id")
    with tarfile.open("data/tiny/archives/val/part_0.tar.gz") as archive:
        archive.extractall("videos", filter="data")
    video = find_videos(["videos"])[0]
    weights = Path("results/tiny/v4d/main/final.pt")
    (ours,) = Predictor(weights, plugin).predict([video], evidence=True)
    np.testing.assert_allclose(ours.probabilities, table.loc[video.stem, "probabilities"], atol=1e-6)
    assert ours.evidence.alone

    run("export", weights, "--out", "toy.pt2", "--size", 32, "--config", "config.yaml", cwd=Path.cwd())
    (theirs,) = Predictor("toy.pt2", plugin).predict([video])
    np.testing.assert_allclose(theirs.probabilities, ours.probabilities, atol=1e-6)
    exported, _ = read_exported(Path("toy.pt2"))
    assert exported.input.mean == exported.input.std == (0.5, 0.5, 0.5)


def test_what_it_does_not_offer_is_one_line(plugin):
    model = load_model("results/tiny/v4d/main/final.pt").model
    with pytest.raises(V4DError, match="toy does not show its features"):
        activation_maps(model, torch.zeros(1, 2, 3, 2, 32, 32), 0)
    stage = plugin.model("v4d").final
    stage = stage.replace(training=stage.training.replace(checkpoint_activations=True))
    with pytest.raises(V4DError, match="checkpoint_activations: toy cannot recompute activations"):
        TrainStep(model, stage, ALONE, seed=0)
    with pytest.raises(V4DError, match="no ImageNet weights for toy"):
        load_initial(create_model("toy", num_classes=4, units=2, frames=2), "imagenet", list("abcd"))


def test_its_own_key_is_checked_and_kept(plugin):
    assert plugin.model("v4d").final.options == {"width": 6}
    for models, words in {
        "width": ({"width": 0}, "models.v4d.width: 0 should be greater than or equal to 1"),
        "near": ({"widht": 3}, "unknown key models.v4d.widht; did you mean width?"),
        "freeze": ({"stages": [{"name": "a", "freeze": ["fc"]}]}, "toy can freeze conv"),
    }.values():
        with pytest.raises(V4DError, match=words):
            configs.resolve(configs.merge(plugin.document, {"models": {"v4d": models}}))
    with pytest.raises(V4DError, match="toy: width: 0 should be"):
        create_model("toy", num_classes=4, units=2, frames=2, width=0)


def test_a_new_key_at_the_value_that_changes_nothing_trains_nothing_anew(trained, tmp_path, monkeypatch):
    """The finished training gives its weights back; it would be killed at its first step."""
    project = tmp_path / "project"
    shutil.copytree(trained, project)
    key = '    depth: int = key(1, "Convolutions.", before=1)\n'
    (project / "toy_network.py").write_text(
        PLUGIN.replace("class Options(ArchOptions):\n", f"class Options(ArchOptions):\n{key}")
    )
    (project / "results/tiny/v4d/main/final.pt").unlink()
    monkeypatch.syspath_prepend(str(project))
    assert train(project, kill_at=0) == 0
    assert not list((project / "results/tiny/v4d/main/checkpoints").glob("superseded-*"))


def test_without_its_plugin_the_config_is_refused(trained, monkeypatch):
    monkeypatch.chdir(trained)
    document = configs.read("config.yaml") | {"plugins": []}
    with pytest.raises(V4DError, match="'toy' is not one of v4d_resnet18"):
        configs.resolve(document)


def test_parts_are_frozen_and_another_s_classifier_stays_new(plugin, tmp_path):
    model = create_model("toy", num_classes=4, units=2, frames=2)
    freeze(model, "conv")
    assert not model.train().bn.training and not model.conv.weight.requires_grad
    assert model.training and model.fc.weight.requires_grad
    other = create_model("toy", num_classes=3, units=2, frames=2)
    save_model(tmp_path / "other.pt", other, architecture=other.spec, classes=list("xyz"), info={})
    assert load_initial(model, tmp_path / "other.pt", list("abcd")) == "classifier"
    assert torch.equal(model.conv.weight, other.conv.weight)


def test_a_clip_level_network_is_averaged_over_its_units(plugin, monkeypatch):
    model = create_model("toy", num_classes=4, units=1, frames=2).eval()
    x = torch.randn(2, 5, 3, 2, 16, 16)
    combinations = video_scores(model, x)
    monkeypatch.setattr(type(model), "clip_level", True)
    model.units = 3
    torch.testing.assert_close(video_scores(model, x, chunk=3), combinations)
