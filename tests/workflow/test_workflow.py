"""The workflow itself, by Snakemake: from nothing to a report, again, one stage, and through a kill -9."""

import contextlib
import shutil
import signal
import subprocess
import time
import zipfile
from pathlib import Path

import duckdb
import lmdb
import numpy
import pandas
import psutil
import pytest
import torch
import yaml
from mlflow import MlflowClient

from tests.support import offline
from tests.support.project import ROOT, environment
from tests.support.workflow import WORKFLOW, checkout, command, snakemake
from v4d import config as configs
from v4d.models.checkpoint import load_model

pytestmark = pytest.mark.slow

RESULTS = "results/flow"


def stamps(folder: Path) -> dict[str, int]:
    """Every output's time of change."""
    files = [*folder.glob("data/**/*.*"), *folder.glob("results/**/*.*")]
    return {str(f.relative_to(folder)): f.stat().st_mtime_ns for f in files if "benchmarks" not in f.parts}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A project that has run once, without a network, and what it printed."""
    folder = checkout(tmp_path_factory.mktemp("flow"))
    offline.install(folder)
    with pytest.MonkeyPatch.context() as patch:
        for name in offline.UNDER_TEST:
            patch.delenv(name, raising=False)
        return folder, snakemake(folder)


def test_it_ends_with_results_and_says_where(finished):
    folder, printed = finished
    for name in ("comparison.csv", "comparison.md", "report.html"):
        assert (folder / RESULTS / name).stat().st_size > 0
    last = [line for line in printed.splitlines() if line][-8:]
    assert any(f"{RESULTS}/comparison.csv" in line for line in last)
    assert any(f"{RESULTS}/report.html" in line for line in last)
    assert any("mlflow ui --backend-store-uri sqlite:///mlflow.db" in line for line in last)


def test_nobody_beyond_this_machine_is_asked_or_told_anything(finished):
    folder, _ = finished
    ran = "\n".join(offline.programs(folder))
    stages = "annotations download clips frames manifest tracking-init train test compare report"
    assert all(f"v4d {stage} " in ran for stage in stages.split()), ran
    assert all(
        f"-m {module}" in ran for module in ("snakemake", "v4d.training.worker", "v4d.evaluation.stage")
    )
    assert offline.attempts(folder) == []


def test_the_comparison_read_with_duckdb(finished):
    folder, _ = finished
    path = folder / RESULTS / "comparison.csv"
    table = duckdb.sql(f"select * from read_csv('{path}')").df()
    columns = (
        "model arch preset units frames parameters gmac top1 top5 top1_units_reversed top1_frames_reversed "
        "videos mlflow_run_id test_gmac test_seconds_per_video seeds top1_std"
    )
    assert list(table.columns) == columns.split()
    assert list(table["model"]) == ["v4d"] and list(table["videos"]) == [10]
    predictions = folder / RESULTS / "v4d/test/predictions.parquet"
    assert duckdb.sql(f"select count(distinct video_id) from '{predictions}'").fetchall() == [(10,)]


def test_the_manifest_accounts_for_every_video(finished):
    folder, _ = finished
    manifest = pandas.read_parquet(folder / "data/flow/manifest.parquet")
    assert manifest.groupby("split").size().to_dict() == {"train": 20, "val": 10}
    assert set(manifest["status"]) == {"ok"} and (manifest["num_frames"] > 60).all()
    assert manifest["video_id"].is_unique


def test_the_shards_read_with_plain_lmdb(finished):
    folder, _ = finished
    path = folder / "data/flow/frames/val/part_0.lmdb"
    frames = pandas.read_parquet(path.with_suffix(".parquet"))["num_frames"].sum()
    with lmdb.open(str(path), subdir=False, readonly=True, lock=False) as shard, shard.begin() as reading:
        images = sum(b"\xff\xd8\xff" in bytes(value[:16]) for _, value in reading.cursor())
    assert images == frames


def test_the_runs_read_with_mlflow(finished):
    folder, _ = finished
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = {r.info.run_name: r for r in client.search_runs([_experiment(client)])}
    assert set(runs) == {"dataset", "v4d"}
    run = runs["v4d"]
    needed = "train/loss train/top1 train/lr val/loss val/top1 val/top5 test/top1 test/top5"
    needed += " test/top1_units_reversed test/top1_frames_reversed perf/videos_per_second"
    assert set(needed.split()) <= set(run.data.metrics)
    assert [m.step for m in client.get_metric_history(run.info.run_id, "val/top1")] == [1, 2]
    assert {"git_sha", "dataset_fingerprint", "config_sha"} <= set(run.data.tags)
    assert runs["dataset"].data.metrics["train/ok"] == 20
    comparison = pandas.read_csv(folder / RESULTS / "comparison.csv")
    assert comparison["mlflow_run_id"][0] == run.info.run_id
    assert comparison["top1"][0] == pytest.approx(run.data.metrics["test/top1"], abs=0.05)
    artifacts = {a.path for a in client.list_artifacts(run.info.run_id)}
    assert "config.yaml" in artifacts and "main" in artifacts


def _experiment(client: MlflowClient) -> str:
    return client.get_experiment_by_name("v4d/flow").experiment_id


def test_a_second_run_does_nothing(finished):
    folder, _ = finished
    before = stamps(folder)
    assert "Nothing to be done" in snakemake(folder)
    assert stamps(folder) == before


def test_one_stage_again(finished):
    folder, _ = finished
    before = stamps(folder)
    snakemake(folder, "--forcerun", "test", "--until", "test")
    after = stamps(folder)
    changed = {name for name in before if before[name] != after.get(name)}
    assert f"{RESULTS}/v4d/test/metrics.json" in changed
    assert not any(name.startswith("data/") or "/main/" in name for name in changed)
    snakemake(folder)  # the comparison and the report follow
    assert "Nothing to be done" in snakemake(folder, "-n")


def test_an_unrelated_edit_reruns_nothing_and_a_related_one_does(finished):
    folder, _ = finished
    unrelated = configs.merge(WORKFLOW, {"training": {"log_steps": 1}, "testing": {"batch_size": 2}})
    (folder / "other.yaml").write_text(yaml.safe_dump(unrelated))
    assert "Nothing to be done" in snakemake(folder, "-n", "--configfile", "other.yaml")
    related = configs.merge(WORKFLOW, {"training": {"epochs": 3}})
    (folder / "other.yaml").write_text(yaml.safe_dump(related))
    jobs = snakemake(folder, "-n", "--quiet", "rules", "--configfile", "other.yaml")
    assert "train" in jobs and "frames" not in jobs and "clips" not in jobs


@pytest.mark.parametrize("words", [["--lint"], ["--rulegraph"]])
def test_snakemake_s_own_views_work(finished, words):
    folder, _ = finished
    printed = snakemake(folder, *words)
    if words[0] == "--rulegraph":
        assert all(name in printed for name in ("clips", "frames", "train", "compare"))


def test_snakemake_s_report_shows_tables_plots_and_the_page_and_needs_no_cores(finished):
    folder, _ = finished
    words = [word for word in command("--report", "report.zip") if word not in ("--cores", "2")]
    env = environment() | {"PYTHONPATH": str(folder)}
    done = subprocess.run(words, cwd=folder, env=env, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(folder / "report.zip") as archive:
        shown = {Path(name).name for name in archive.namelist() if "/data/raw/" in name}
    tables = {"comparison.csv", "comparison_published.csv", "significance.csv"}
    plots = {path.name for path in (folder / RESULTS / "plots").glob("*.svg")}
    of_the_test = {"confusion.png", "per_class.png", "reliability.png", "temporal_order.png"}
    assert shown == tables | plots | of_the_test | {"report.html"}
    assert {"accuracies.svg", "training_v4d.svg"} <= plots


def test_a_results_folder_of_another_config_is_refused(finished):
    folder, _ = finished
    other = configs.merge(WORKFLOW, {"dataset": {"name": "elsewhere"}})
    (folder / "other.yaml").write_text(yaml.safe_dump(other))
    printed = snakemake(folder, "--configfile", "other.yaml", check=False)
    assert "error: results/flow was written by another config: dataset.name" in printed
    assert "Traceback" not in printed and not (folder / "data/elsewhere").exists()


def test_kill_9_in_the_second_epoch_changes_nothing_in_the_end(finished, tmp_path):
    """Snakemake and all that it started die; the same command goes on and ends with the same weights."""
    source, _ = finished
    folder = checkout(tmp_path)
    shutil.copytree(source / "data", folder / "data")
    shutil.copytree(source / ".snakemake/metadata", folder / ".snakemake/metadata")
    last = folder / RESULTS / "v4d/main/checkpoints/last.pt"
    env = environment() | {"PYTHONPATH": str(folder)}
    run = subprocess.Popen(
        command("--rerun-triggers", "mtime", "--until", "train"),
        cwd=folder,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 400
    while not (last.exists() and _epoch(last) >= 1) and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    reached = last.exists() and run.poll() is None
    family = [*psutil.Process(run.pid).children(recursive=True), psutil.Process(run.pid)] if reached else []
    for process in family:
        _kill(process)
    run.kill()
    run.wait()
    psutil.wait_procs(family, timeout=10)
    assert reached, "training did not reach its second epoch"
    assert not (folder / RESULTS / "v4d/main/final.pt").exists()
    snakemake(folder, "--unlock")
    snakemake(folder, "--rerun-triggers", "mtime", "--until", "train")
    found = load_model(folder / RESULTS / "v4d/main/final.pt").model.state_dict()
    expected = load_model(source / RESULTS / "v4d/main/final.pt").model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert "goes on at" in (folder / "logs/flow/train/v4d/main.log").read_text()


def _epoch(checkpoint: Path) -> int:
    return torch.load(checkpoint, weights_only=True)["epoch"]


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("name", sorted(p.name for p in (ROOT / "config").glob("*kinetics*.yaml")))
def test_the_shipped_configs_plan(tmp_path, name):
    folder = checkout(tmp_path)
    (folder / "weights").mkdir()
    for file in (name.replace(".yaml", ".pt"), "SLOW_8x8_R50.pyth"):
        (folder / "weights" / file).touch()
    printed = snakemake(folder, "-n", "--quiet", "rules", "--configfile", f"config/{name}")
    jobs = {line.split()[0]: int(line.split()[1]) for line in printed.splitlines() if _is_count(line)}
    assert jobs["clips"] == jobs["frames"] == (20 if name.startswith("released") else 262)
    assert jobs["report"] == 1 and ("train" in jobs) != name.startswith("released")


def _is_count(line: str) -> bool:
    return len(line.split()) == 2 and line.split()[1].isdigit()


def test_seeds_are_named_in_the_results(finished):
    folder, _ = finished
    info = load_model(folder / RESULTS / "v4d/main/final.pt").info
    assert info["seed"] == 0 and len(info["dataset_fingerprint"]) == 64
    assert numpy.isfinite(pandas.read_csv(folder / RESULTS / "comparison.csv")["gmac"]).all()
    assert (folder / RESULTS / "config.yaml").exists()
