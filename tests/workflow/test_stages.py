"""A training in three stages, as the paper's on Kinetics-400: backbone, 4D kernels at zero, everything."""

import copy
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from mlflow import MlflowClient

from tests.support.project import TINY
from tests.support.workflow import checkout, snakemake
from v4d import config as configs
from v4d.models.checkpoint import load_model

STAGED = configs.merge(
    TINY,
    {
        "models": {
            "i3ds": None,
            "tsn": None,
            "v4d": {
                "stages": [
                    {"name": "backbone", "arch": "i3ds_tiny", "units": 1, "training": {"crop": {"size": 24}}},
                    {"name": "tsn", "freeze": ["blocks4d_zero"]},
                    {"name": "v4d", "frames": 3, "training": {"epochs": 2}},
                ]
            },
        },
        "training": {"epochs": 1, "processes": 1},
        "tracking": {"backend": "mlflow", "log_model": False, "system_metrics": False},
    },
)
NAMES = ("backbone", "tsn", "v4d")


def configure(folder: Path, changes: dict) -> None:
    (folder / "flow.yaml").write_text(yaml.safe_dump(changes))


def weights(folder: Path, stage: str) -> Path:
    return folder / f"results/tiny/v4d/{stage}/final.pt"


@pytest.fixture(scope="module")
def staged(tiny_data, tmp_path_factory) -> Path:
    """A project that has trained its three stages."""
    folder = checkout(tmp_path_factory.mktemp("staged"))
    shutil.copytree(tiny_data / "data", folder / "data")
    configure(folder, STAGED)
    snakemake(folder, "--", "trained")
    return folder


@pytest.mark.long
def test_each_stage_starts_from_the_one_before_with_its_own_settings(staged):
    backbone, tsn, v4d = (load_model(weights(staged, name)) for name in NAMES)
    assert [m.architecture["arch"] for m in (backbone, tsn, v4d)] == ["i3ds_tiny", "v4d_tiny", "v4d_tiny"]
    assert [m.architecture["units"] for m in (backbone, tsn, v4d)] == [1, 2, 2]
    assert [m.architecture["frames"] for m in (backbone, tsn, v4d)] == [2, 2, 3]
    assert [m.info["stage"]["training"]["crop"]["size"] for m in (backbone, tsn, v4d)] == [24, 32, 32]
    assert all(block.conv.weight.count_nonzero() == 0 for block in tsn.model.blocks4d().values())
    assert all(block.conv.weight.count_nonzero() > 0 for block in v4d.model.blocks4d().values())
    logs = [(staged / f"logs/tiny/train/v4d/{name}.log").read_text() for name in NAMES]
    assert "starts from" not in logs[0]
    assert "starts from results/tiny/v4d/backbone/final.pt; new: 4D blocks\n" in logs[1]
    assert "starts from results/tiny/v4d/tsn/final.pt; new: 4D blocks\n" in logs[2]  # they were held at zero


@pytest.mark.long
def test_the_stages_are_one_curve_of_one_run(staged):
    client = MlflowClient(f"sqlite:///{staged}/mlflow.db")
    experiment = client.get_experiment_by_name("v4d/tiny").experiment_id
    (run,) = client.search_runs([experiment], "attributes.run_name = 'v4d'")
    points = client.get_metric_history(run.info.run_id, "train/loss")
    assert [point.step for point in points] == [1, 2, 3, 4]
    assert {f"{name}/crop.size" for name in NAMES} <= run.data.params.keys()


@pytest.mark.long
@pytest.mark.parametrize(("gpus", "threads"), [(2, 1), (1, 2)])
def test_jobs_that_leave_gpus_leave_cores_for_others(staged, gpus, threads):
    """Of 2 cores; a job asks for one GPU."""
    words = ("-n", "--resources", f"gpu={gpus}", "--force", "--", "results/tiny/v4d/tsn/final.pt")
    planned = snakemake(staged, *words)
    (job,) = [text for text in planned.split("rule ") if text.startswith("train:")]
    assert re.findall(r"threads: (\d+)", job) == ([str(threads)] if threads > 1 else [])
    assert "gpu=1" in job


def with_stage(number: int, **training) -> dict:
    """The config with other training settings of one stage."""
    document = copy.deepcopy(STAGED)
    stage = document["models"]["v4d"]["stages"][number]
    stage["training"] = stage.get("training", {}) | training
    return document


@pytest.mark.long
@pytest.mark.parametrize(("changed", "trained"), [(0, 3), (1, 2), (2, 1)])
def test_a_change_reruns_its_stage_and_what_starts_from_it(staged, changed, trained):
    configure(staged, with_stage(changed, label_smoothing=0.1))
    planned = snakemake(staged, "-n", "--quiet", "rules", "--", "trained")
    configure(staged, STAGED)
    counts = dict(re.findall(r"^(\w+) +(\d+)$", planned, re.MULTILINE))
    assert counts == {"train": str(trained), "trained": "1", "total": str(trained + 1)}


@pytest.mark.long
def test_the_last_stage_again_leaves_the_others_alone(staged):
    before = {name: torch.load(weights(staged, name), weights_only=True)["model"] for name in NAMES}
    times = {name: weights(staged, name).stat().st_mtime_ns for name in NAMES}
    configure(staged, with_stage(2, epochs=3))
    snakemake(staged, "--", "trained")
    after = {name: torch.load(weights(staged, name), weights_only=True)["model"] for name in NAMES}
    same = [torch.equal(before[name]["fc.weight"], after[name]["fc.weight"]) for name in NAMES]
    assert same == [True, True, False]
    assert [weights(staged, name).stat().st_mtime_ns == times[name] for name in NAMES] == same
    assert "settings have changed" in (staged / "logs/tiny/train/v4d/v4d.log").read_text()
