"""The comparison of models: columns, published rows, significance, MLflow runs."""

import json
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import scipy.stats
import yaml

from tests.support import made_by_hand as made
from v4d import config as configuration
from v4d.cli import main
from v4d.datasets import open_source
from v4d.datasets.published import published_results
from v4d.errors import V4DError
from v4d.evaluation import stage
from v4d.report.comparison import Comparison, markdown, markdown_table, over_seeds, with_published

COLUMNS = (
    "model,arch,preset,units,frames,parameters,gmac,top1,top5,top1_units_reversed,top1_frames_reversed,"
    "videos,mlflow_run_id,test_gmac,test_seconds_per_video,seeds,top1_std"
)


@pytest.fixture
def project(tested_project, tmp_path, monkeypatch) -> Path:
    """A copy of the tested project, as the current folder."""
    folder = tmp_path / "project"
    shutil.copytree(tested_project, folder)
    monkeypatch.chdir(folder)
    return folder


def test_a_row_a_model_with_the_numbers_of_its_test(project, capsys):
    assert main(["compare", "--config", "config.yaml"]) == 0
    text = Path("results/hand/comparison.csv").read_text()
    assert text.splitlines()[0] == COLUMNS
    table = pd.read_csv("results/hand/comparison.csv").set_index("model")
    assert list(table.index) == ["colour", "random", "staged"]
    for name, row in table.iterrows():
        result = json.loads(Path(f"results/hand/{name}/test/metrics.json").read_text())
        assert row["top1"] == pytest.approx(result["top1"])
        assert row["top1_units_reversed"] == pytest.approx(result["orders"]["units_reversed"]["top1"])
        assert (row["videos"], row["units"], row["frames"]) == (18, 2, 3)
        assert row["parameters"] == result["parameters"] > 0
    printed = capsys.readouterr().out
    assert printed.strip() == Path("results/hand/comparison.md").read_text().strip()
    assert "published" not in printed.lower()  # nobody published on this data set


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("parameters", 907_316, "0.91 M"),
        ("gmac", 285.34, "285.3"),
        ("gmac", 0.1339, "0.134"),
        ("p_value", 0.00001, "< 0.0001"),
        ("p_value", 0.0156, "0.0156"),
        ("top1", 77.44, "77.4"),
        ("videos", 160.0, "160"),
        ("top1_units_reversed", np.nan, ""),
        ("preset", None, ""),
    ],
)
def test_numbers_for_a_reader(column, value, text):
    table = pd.DataFrame({"model": ["a | b"], column: [value]})
    assert markdown_table(table).splitlines()[2] == f"| a \\| b | {text} |"


def test_mcnemar_between_every_two_models_on_the_same_videos(project):
    main(["compare", "--config", "config.yaml"])
    table = pd.read_csv("results/hand/significance.csv")
    assert len(table) == 3
    right = {
        name: pq.read_table(f"results/hand/{name}/test/predictions.parquet")["label_rank"].to_numpy() == 0
        for name in ("colour", "random", "staged")
    }
    for row in table.itertuples():
        first, second = right[row.first], right[row.second]
        only = int((first & ~second).sum()), int((~first & second).sum())
        assert (row.only_first, row.only_second) == only
        expected = scipy.stats.binomtest(only[0], sum(only)).pvalue if sum(only) else 1
        assert row.p_value == pytest.approx(expected)
        assert row.top1_difference == pytest.approx(100 * (first.mean() - second.mean()))


def test_models_tested_on_different_videos_are_not_tested_against_each_other(project):
    path = Path("results/hand/random/test/predictions.parquet")
    pq.write_table(pq.read_table(path).slice(1), path)
    assert main(["compare", "--config", "config.yaml"]) == 0
    table = pd.read_csv("results/hand/significance.csv").set_index(["first", "second"])
    assert not table.loc[("colour", "random"), "same_videos"]
    assert np.isnan(table.loc[("colour", "random"), "p_value"])
    assert table.loc[("colour", "staged"), "same_videos"]


def second_seed(top1: float) -> None:
    """The model `staged` tested with another seed too, on the same videos; `top1` stands in its metrics."""
    shutil.copytree("results/hand/staged/test", "results/hand/staged/seed_7/test")
    path = Path("results/hand/staged/seed_7/test/metrics.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"top1": top1, "seed": 7}))
    document = yaml.safe_load(Path("config.yaml").read_text())
    Path("config.yaml").write_text(yaml.safe_dump(document | {"seeds": [document.get("seed", 0), 7]}))


def test_a_row_a_model_has_the_mean_over_its_seeds(project):
    first = json.loads(Path("results/hand/staged/test/metrics.json").read_text())["top1"]
    second_seed(first + 6)
    assert main(["compare", "--config", "config.yaml"]) == 0
    row = pd.read_csv("results/hand/comparison.csv").set_index("model").loc["staged"]
    assert row["top1"] == pytest.approx(first + 3) and row["seeds"] == 2
    assert row["top1_std"] == pytest.approx(np.std([first, first + 6], ddof=1))
    runs = pd.read_csv("results/hand/comparison_seeds.csv")
    assert list(zip(runs["model"], runs["seed"], strict=True)) == [
        *(("colour", 0), ("random", 0)),  # they came with their weights: tested once
        *(("staged", 0), ("staged", 7)),
    ]
    assert list(runs["top1"])[2:] == pytest.approx([first, first + 6])
    text = Path("results/hand/comparison.md").read_text()
    assert f"{first + 3:.1f}" in text and "top1_std" in text
    assert main(["report", "--config", "config.yaml"]) == 0
    assert "Means over the seeds" in Path("results/hand/report.html").read_text()


@pytest.mark.parametrize("count", [2, 3, 10, 11, 30])
def test_the_interval_over_seeds_is_student_s(count):
    values = np.random.default_rng(count).normal(60, 2, count)
    runs = [{"top1": v, "top5": v, "orders": {}, "by_units": {}} for v in values]
    low, high = over_seeds(runs)["top1_interval"]
    expected = scipy.stats.t.interval(0.95, count - 1, values.mean(), scipy.stats.sem(values))
    np.testing.assert_allclose([low, high], expected, atol=0.03 * (high - low))


@pytest.mark.slow
def test_tables_show_ours_beside_published_ones_and_what_is_separated(project):
    rows = [
        {"model": "colour", "label": "a | b", "published": {"top1": 70.5}},
        {"model": "random"},
        {"model": "colour"},
    ]
    one = {"title": "Table 1", "rows": rows}
    two = {"title": "Arrow of time", "rows": rows[1:2], "columns": ["top1", "top1_units_reversed"]}
    document = yaml.safe_load(Path("config.yaml").read_text()) | {"tables": [one, two]}
    Path("config.yaml").write_text(yaml.safe_dump(document))
    assert main(["compare", "--config", "config.yaml"]) == 0
    table = pd.read_csv("results/hand/comparison_tables.csv")
    models = pd.read_csv("results/hand/comparison.csv").set_index("model")
    pair = pd.read_csv("results/hand/significance.csv").set_index(["first", "second"])
    assert list(table["table"]) == ["Table 1"] * 3 + ["Arrow of time"]
    assert list(table["row"]) == ["a | b", "random", "colour", "random"]
    first, second = table.iloc[0], table.iloc[1]
    assert first["top1_difference"] == pytest.approx(models.loc["colour", "top1"] - 70.5)
    assert first["low"] < first["top1"] < first["high"]
    assert second["p_value"] == pytest.approx(pair.loc[("colour", "random"), "p_value"])
    overlap = second["high"] >= first["low"]
    assert second["against_first"] == ("not separated" if overlap else "separated")
    assert np.isnan(second["top1_published"])
    text = Path("results/hand/comparison.md").read_text()
    assert "## Table 1" in text and "a \\| b" in text and "Every model was trained once" in text
    assert main(["report", "--config", "config.yaml"]) == 0
    page = Path("results/hand/report.html").read_text()
    assert "<h3>Arrow of time</h3>" in page and "noise of one run" in page
    del document["tables"]
    Path("config.yaml").write_text(yaml.safe_dump(document))
    assert main(["compare", "--config", "config.yaml"]) == 0
    assert not Path("results/hand/comparison_tables.csv").exists()


def test_an_untested_model_is_named(project, capsys):
    shutil.rmtree("results/hand/random/test")
    assert main(["compare", "--config", "config.yaml"]) == 1
    assert "results/hand/random/test/metrics.json" in capsys.readouterr().err


def test_a_test_of_other_data_is_not_put_beside_the_others(project, capsys):
    path = Path("results/hand/random/test/metrics.json")
    result = json.loads(path.read_text())
    for change in ({"dataset_fingerprint": "0123456789abcdef"}, {"split": "train"}):
        path.write_text(json.dumps(result | change))
        for command in ("compare", "report"):
            assert main([command, "--config", "config.yaml"]) == 1
            line = capsys.readouterr().err
            assert "model 'random' was tested on other data" in line and line.count("\n") == 1
    assert not Path("results/hand/comparison.csv").exists()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("predictions.parquet", b"PAR1 and no more", "predictions.parquet is damaged; test the model again"),
        ("metrics.json", b'{"top1": 5}', "metrics.json has no top5: test the model again"),
    ],
)
def test_a_damaged_test_is_named_in_one_line(project, capsys, file, content, message):
    (Path("results/hand/random/test") / file).write_bytes(content)
    for command in ("compare", "report"):
        assert main([command, "--config", "config.yaml"]) == 1
        line = capsys.readouterr().err
        assert message in line and line.count("\n") == 1


def test_a_config_without_models_has_nothing_to_compare(project, capsys):
    made.write_config(Path("none.yaml"), models={"colour": None})
    for command in ("compare", "report"):
        assert main([command, "--config", "none.yaml"]) == 1
        assert "has no models to compare" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overlay", "classes", "expected"),
    [
        ({"source": "kinetics"}, 400, "Kinetics-400"),
        ({"source": "kinetics", "kinetics": {"subset": "mini200"}}, 200, "Mini-Kinetics-200"),
        ({"source": "kinetics", "limit": 5}, 400, None),
        ({"source": "kinetics"}, 12, None),  # a miniature mirror
        ({"source": "folder"}, 400, None),
    ],
)
def test_published_rows_belong_to_one_data_set(overlay, classes, expected):
    document = {"name": "x", "dataset": {"name": "own_name", **overlay}}
    config = configuration.build(configuration.resolve(document))
    dataset = open_source(config.dataset).published_name(classes, config.testing.split)
    assert dataset == expected
    assert set(published_results(dataset)["dataset"]) == ({expected} if expected else set())


def test_published_rows_are_about_the_validation_split():
    document = {"name": "x", "dataset": {"name": "k", "source": "kinetics", "splits": ["train", "val"]}}
    source = open_source(configuration.build(configuration.resolve(document)).dataset)
    assert source.published_name(400, "train") is None


def test_any_source_may_say_under_which_name_others_publish():
    """Something-Something comes as a folder of one's own."""
    dataset = {"name": "own", "source": "folder", "published": "Something-Something-v1"}

    def config_of(**changes) -> configuration.Config:
        return configuration.build(configuration.resolve({"name": "x", "dataset": dataset | changes}))

    source = open_source(config_of().dataset)
    rows = published_results(source.published_name(174, "val"))
    assert list(rows["top1"]) == [50.4] and list(rows["top1_units_reversed"]) == [20.1]
    with pytest.raises(V4DError, match="'Something' is not one of Kinetics-400, Mini-Kinetics-200, Somethi"):
        open_source(config_of(published="Something").dataset)


def test_published_rows_stand_beside_ours_and_are_marked():
    ours = pd.DataFrame([dict.fromkeys(COLUMNS.split(","), 1) | {"model": "mine", "top1": 70.0}])
    comparison = Comparison(
        dataset="k400",
        models=ours,
        published=published_results("Kinetics-400"),
        significance=pd.DataFrame({"same_videos": []}),
        results={"mine": {"videos": 100}},
    )
    table = with_published(comparison)
    assert len(table) == 10
    assert table["origin"].str.startswith("published: ").sum() == 9
    assert set(table["dataset"][1:]) == {"Kinetics-400"}
    v4d = table[(table["model"] == "V4D")].iloc[0]
    assert (v4d["top1"], v4d["top5"], v4d["backbone"]) == (77.4, 93.1, "V4D ResNet-50")
    text = markdown(comparison)
    assert "## Published results on Kinetics-400" in text
    assert text.index("| mine |") < text.index("| SlowFast |")
    assert "Mini" not in text


@pytest.mark.slow
def test_mlflow_has_it_all_and_runs_are_compared_by_data_set(tmp_path, monkeypatch, capsys, mlflow_database):
    monkeypatch.chdir(tmp_path)
    shutil.copy(mlflow_database, tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)  # load_table asks there, whatever its client's address
    shape = {"arch": "v4d_tiny", "units": 2, "frames": 3, "frame_stride": 2}
    models = {"colour": shape | {"checkpoint": "colour.pt"}, "random": shape | {"checkpoint": "random.pt"}}
    tracking = {"backend": "mlflow", "uri": uri, "experiment": "hand", "system_metrics": False}
    config = made.write_config(models=models, tracking=tracking)
    made.write_data(config, made.coloured_videos(12), classes=made.NASTY_CLASSES)
    made.save(made.colour_model(), Path("colour.pt"), made.NASTY_CLASSES)
    made.save(made.random_model(Path("random.pt")), Path("random.pt"), made.NASTY_CLASSES)
    for model in (*models, "colour"):  # one of them again
        assert stage.main(["--config", "config.yaml", "--model", model]) == 0

    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("hand")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    result = json.loads(Path("results/hand/colour/test/metrics.json").read_text())
    run = runs["colour"]
    assert run.info.status == "FINISHED"
    assert result["mlflow_run_id"] == run.info.run_id
    for key in ("top1", "top5"):
        assert run.data.metrics[f"test/{key}"] == pytest.approx(result[key])
    for order in ("units_reversed", "frames_reversed"):
        assert run.data.metrics[f"test/top1_{order}"] == pytest.approx(result["orders"][order]["top1"])
    wanted = {"arch": "v4d_tiny", "preset": "released", "units": "2", "frames": "3", "kernel": "[3, 3, 1, 1]"}
    assert wanted.items() <= run.data.tags.items()
    assert "res3" in run.data.tags["blocks"]
    artifacts = {file.path for file in client.list_artifacts(run.info.run_id, "test")}
    names = ("predictions.parquet", "metrics.json", "per_class.csv", "confusion.png", "predictions.json")
    assert {f"test/{name}" for name in names} <= artifacts
    rows = client.load_table(experiment.experiment_id, "test/predictions.json", run_ids=[run.info.run_id])
    assert rows["video_id"].tolist() == [f"video_{n:03d}" for n in range(12)]
    assert rows["predicted_label"].tolist()[:2] == ["red", "green"]

    assert main(["compare", "--config", "config.yaml"]) == main(["report", "--config", "config.yaml"]) == 0
    artifacts = {file.path for file in client.list_artifacts(run.info.run_id, "report")}
    files = {"report.html", "comparison.csv", "comparison_published.csv", "comparison.md", "significance.csv"}
    assert artifacts == {f"report/{name}" for name in files} | {"report/plots"}
    plots = {Path(file.path).name for file in client.list_artifacts(run.info.run_id, "report/plots")}
    assert plots == {path.name for path in Path("results/hand/plots").iterdir()} >= {"accuracies.svg"}
    assert client.get_run(run.info.run_id).info.status == "FINISHED"
    assert run.info.run_id in Path("results/hand/report.html").read_text()

    capsys.readouterr()
    client.set_tag(runs["random"].info.run_id, "dataset_fingerprint", "another")
    assert main(["compare", "--experiment", "hand", "--uri", uri, "--out", "out"]) == 0
    assert capsys.readouterr().out.count("# colours: comparison of models") == 2  # never in one table
    client.set_tag(runs["random"].info.run_id, "dataset_fingerprint", result["dataset_fingerprint"])
    client.set_tag(runs["random"].info.run_id, "tested_split", "train")
    assert main(["compare", "--experiment", "hand", "--uri", uri]) == 0
    assert capsys.readouterr().out.count("# colours: comparison of models") == 2  # nor two splits
    client.set_tag(runs["random"].info.run_id, "tested_split", "val")
    client.set_tag(runs["random"].info.run_id, "gmac", "a few")  # anybody can change a tag
    ids = [run.info.run_id for run in runs.values()]
    assert main(["compare", "--runs", *ids, ids[0], "--uri", uri, "--out", "out"]) == 0  # one of them twice
    table = pd.read_csv("out/comparison.csv").set_index("model")
    assert sorted(table.index) == ["colour", "random"]
    assert np.isnan(table.loc["random", "gmac"])
    low, high = result["top1_interval"]
    assert f"| {low:.1f} to {high:.1f} |" in Path("out/comparison.md").read_text()
    (row,) = pd.read_csv("out/significance.csv").to_dict("records")
    assert row["same_videos"] and row["split"] == "val" and row["dataset"] == "colours"
    assert set(pd.read_csv("out/comparison_published.csv")["origin"]) == {"this run"}
    assert list(table.columns[:16]) == COLUMNS.split(",")[1:]
    assert table.loc["colour", "top1"] == pytest.approx(result["top1"])
    assert table.loc["colour", "gmac"] == pytest.approx(result["gmac"])
    assert "McNemar" in capsys.readouterr().out  # from the predictions among the artifacts

    assert main(["compare", "--runs", "nonsense", "--uri", uri]) == 1
    assert main(["compare", "--experiment", "none", "--uri", uri]) == 1
    assert main(["compare", "--experiment", "hand", "--uri", "sqlite:///typo.db"]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3
    assert "no MLflow experiment 'none'" in errors[1]
    assert "no such database: typo.db" in errors[2]
    assert not Path("typo.db").exists()
