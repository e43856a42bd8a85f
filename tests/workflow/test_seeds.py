"""Every model with two seeds, from its training to one row of the comparison."""

import shutil

import pandas
import pytest
import torch
import yaml
from mlflow import MlflowClient

from tests.support.project import TINY
from tests.support.workflow import checkout, snakemake
from v4d import config as configs
from v4d.models.checkpoint import load_model

SEEDED = configs.merge(
    TINY,
    {
        "seeds": [0, 5],
        "training": {"epochs": 1, "processes": 1},
        "testing": {"crops": 1, "orders": ["normal"]},
        "tables": [{"title": "One row", "rows": [{"model": "v4d", "published": {"top1": 40}}]}],
        "tracking": {"backend": "mlflow", "log_model": False, "system_metrics": False},
    },
)


@pytest.mark.long
def test_two_seeds_are_two_runs_and_one_row(tiny_data, tmp_path):
    folder = checkout(tmp_path)
    shutil.copytree(tiny_data / "data", folder / "data")
    (folder / "flow.yaml").write_text(yaml.safe_dump(SEEDED))
    snakemake(folder)
    results = folder / "results/tiny"
    weights = [
        load_model(results / "v4d" / place / "main/final.pt").model.state_dict() for place in ("", "seed_5")
    ]
    assert not torch.equal(weights[0]["fc.weight"], weights[1]["fc.weight"])
    row = pandas.read_csv(results / "comparison.csv").iloc[0]
    runs = pandas.read_csv(results / "comparison_seeds.csv")
    assert list(runs["seed"]) == [0, 5] and row["seeds"] == 2
    assert row["top1"] == pytest.approx(runs["top1"].mean())
    assert row["top1_std"] == pytest.approx(runs["top1"].std())
    assert (runs["test_gmac"] > 0).all() and runs["top1_units_reversed"].isna().all()
    table = pandas.read_csv(results / "comparison_tables.csv")
    assert table["top1_difference"].iloc[0] == pytest.approx(row["top1"] - 40)
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("v4d/tiny").experiment_id
    names = {run.info.run_name: run for run in client.search_runs([experiment])}
    assert {"v4d", "v4d/seed_5"} <= names.keys()
    assert names["v4d/seed_5"].data.params["main/seed"] == "5"
    assert "test/gmac" in names["v4d/seed_5"].data.metrics
    assert "Nothing to be done" in snakemake(folder, "-n")
    (folder / "flow.yaml").write_text(yaml.safe_dump(SEEDED | {"tables": []}))
    planned = snakemake(folder, "-n", "--quiet", "rules")
    assert "train" not in planned and "compare" in planned and "report" in planned
