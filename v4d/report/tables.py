"""What a report tells, gathered from the files that the stages left. What is absent is left out."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from v4d.config import Config
from v4d.tracking import mlflow_client
from v4d.utils.addresses import without_secrets
from v4d.utils.files import read_json

COST_COLUMNS = ["stage", "jobs", "hours", "device_hours", "peak_memory_gb", "hardware"]


def training_stages(config: Config, run: str) -> list[dict[str, Any]]:
    """metrics.json of the stages of a run that were trained; none for a model that came with its weights."""
    config, model = config.run(run)
    files = [config.paths.training_metrics(model.name, stage.name) for stage in model.stages]
    return [read_json(file) for file in files if file.exists()]


def confused_classes(config: Config, model_name: str, count: int = 10) -> pd.DataFrame:
    """The most confused pairs of a model's test."""
    path = config.paths.test(model_name) / "confused.csv"
    if not path.exists():
        return pd.DataFrame()
    # Names are text, also those of classes called "007" or "nan".
    return pd.read_csv(path, dtype={"label": str, "predicted": str}, keep_default_na=False).head(count)


def count_table(info: dict[str, Any]) -> pd.DataFrame:
    """A row a split: annotated, usable, and what was lost for which reason."""
    table = pd.DataFrame.from_dict(info["counts"], orient="index").fillna(0).astype(int)
    reasons = sorted(set(table.columns) - {"annotated", "ok"})
    table = table[["annotated", "ok", *reasons]]
    table.insert(2, "usable, %", (100 * table["ok"] / table["annotated"].clip(lower=1)).round(2))
    return table.rename_axis("split").reset_index()


def cost_table(config: Config) -> pd.DataFrame:
    """Time of every stage, from Snakemake's benchmark files and the stages' own clocks.

    `hours` is the sum over jobs of wall-clock time, `device_hours` that times the processes of a job.
    """
    rows = [_data_row(config, stage) for stage in ("archive", "clips", "frames")]
    for run in config.every_run:
        for stage in training_stages(config, run):
            benchmark = config.paths.benchmark("train", run, stage["stage"])
            rows.append(_model_row(f"train {run}: {stage['stage']}", stage, benchmark))
        of_seed, model = config.run(run)
        metrics = of_seed.paths.test_metrics(model.name)
        if metrics.exists():
            benchmark = config.paths.benchmark("test", run)
            rows.append(_model_row(f"test {run}", read_json(metrics), benchmark))
    return pd.DataFrame([row for row in rows if row], columns=COST_COLUMNS)


def _data_row(config: Config, stage: str) -> tuple[Any, ...] | None:
    """`COST_COLUMNS` of all parts of a data stage together."""
    files = config.dataset.paths.benchmarks(stage)
    if not files:
        return None
    table = pd.concat(map(_benchmark, files))
    cpu_hours = table["cpu_time"].sum() / 3600 if "cpu_time" in table else np.nan
    memory = table["max_rss"].max() / 1024
    return f"data: {stage}", len(table), table["s"].sum() / 3600, cpu_hours, memory, "CPU"


def _model_row(name: str, metrics: dict[str, Any], benchmark: Path) -> tuple[Any, ...]:
    """`COST_COLUMNS` of one training or test; its memory is known where Snakemake ran it."""
    hours = metrics.get("seconds", np.nan) / 3600
    memory = _benchmark(benchmark)["max_rss"].max() / 1024 if benchmark.exists() else np.nan
    return name, 1, hours, hours * metrics.get("processes", 1), memory, metrics.get("hardware", "")


def _benchmark(path: Path) -> pd.DataFrame:
    """Snakemake's measurement of a job: seconds, and MB of memory; NaN where it has no number."""
    return pd.read_csv(path, sep="\t").apply(pd.to_numeric, errors="coerce")


def run_links(config: Config) -> list[dict[str, str]]:
    """The MLflow run of each model and seed: `model`, `run_id`, `url` ("" where the runs are not served)."""
    links = []
    for name in config.every_run:
        state_file = config.paths.run_state(name)
        state = read_json(state_file) if state_file.exists() else {}
        run_id = state.get("run_id")
        if run_id:
            links.append(
                {
                    "model": name,
                    "run_id": run_id,
                    "url": _run_url(without_secrets(state.get("uri", "")), run_id),
                }
            )
    return links


def _run_url(uri: str, run_id: str) -> str:
    if not uri.startswith(("http://", "https://")):
        return ""
    try:
        experiment = mlflow_client(uri).get_run(run_id).info.experiment_id
    except Exception:  # not installed, not reachable, not there: a report needs no network
        return ""
    return f"{uri.rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"


def config_text(config: Config) -> str:
    """The resolved config as YAML."""
    return yaml.safe_dump(config.document, sort_keys=False, allow_unicode=True)
