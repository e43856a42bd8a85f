"""What a report tells, gathered from the files that the stages left. What is absent is left out."""

import re
from typing import Any

import numpy as np
import pandas as pd
import yaml

from v4d.config import Config, ModelConfig
from v4d.tracking import mlflow_client
from v4d.utils.files import read_json

_USER_INFO = re.compile(r"(?<=://)[^/\s]+@")


def training_stages(config: Config, model: ModelConfig) -> list[dict[str, Any]]:
    """metrics.json of the stages that were trained; none for a model that came with its weights."""
    files = [config.results / model.name / stage.name / "metrics.json" for stage in model.stages]
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
    for model in config.models.values():
        for stage in training_stages(config, model):
            benchmark = f"train/{model.name}/{stage['stage']}.tsv"
            rows.append(_model_row(config, f"train {model.name}: {stage['stage']}", stage, benchmark))
        metrics = config.paths.test_metrics(model.name)
        if metrics.exists():
            rows.append(
                _model_row(config, f"test {model.name}", read_json(metrics), f"test/{model.name}.tsv")
            )
    columns = ["stage", "jobs", "hours", "device_hours", "peak_memory_gb", "hardware"]
    return pd.DataFrame([row for row in rows if row], columns=columns)


def _data_row(config: Config, stage: str) -> dict[str, Any] | None:
    """All parts of a data stage together."""
    files = sorted((config.dataset.root / "benchmarks" / stage).glob("*/*.tsv"))
    if not files:
        return None
    table = pd.concat([pd.read_csv(file, sep="\t") for file in files])
    seconds = pd.to_numeric(table["s"], errors="coerce").sum()
    memory = pd.to_numeric(table["max_rss"], errors="coerce").max()
    cpu = pd.to_numeric(table["cpu_time"], errors="coerce").sum() if "cpu_time" in table else np.nan
    return {
        "stage": f"data: {stage}",
        "jobs": len(table),
        "hours": seconds / 3600,
        "device_hours": cpu / 3600,
        "peak_memory_gb": memory / 1024,
        "hardware": "CPU",
    }


def _model_row(config: Config, name: str, metrics: dict[str, Any], benchmark: str) -> dict[str, Any]:
    """One training or test; its memory is known where Snakemake ran it."""
    hours = metrics.get("seconds", np.nan) / 3600
    path = config.results / "benchmarks" / benchmark
    memory = pd.to_numeric(pd.read_csv(path, sep="\t")["max_rss"], errors="coerce") if path.exists() else None
    return {
        "stage": name,
        "jobs": 1,
        "hours": hours,
        "device_hours": hours * metrics.get("processes", 1),
        "peak_memory_gb": np.nan if memory is None else memory.max() / 1024,
        "hardware": metrics.get("hardware", ""),
    }


def run_links(config: Config) -> list[dict[str, str]]:
    """The MLflow run of each model: `model`, `run_id`, and `url` ("" where the runs are not served)."""
    links = []
    for name in config.models:
        state_file = config.results / name / "mlflow_run.json"
        state = read_json(state_file) if state_file.exists() else {}
        run_id = state.get("run_id")
        if run_id:
            links.append({"model": name, "run_id": run_id, "url": _run_url(state.get("uri", ""), run_id)})
    return links


def _run_url(uri: str, run_id: str) -> str:
    if not uri.startswith(("http://", "https://")):
        return ""
    try:
        experiment = mlflow_client(uri).get_run(run_id).info.experiment_id
    except Exception:  # not installed, not reachable, not there: a report needs no network
        return ""
    return f"{without_user(uri).rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"


def config_text(config: Config) -> str:
    """The resolved config as YAML."""
    return without_user(yaml.safe_dump(config.document, sort_keys=False, allow_unicode=True))


def without_user(text: str) -> str:
    """Addresses without user name and password: reports are passed on."""
    return _USER_INFO.sub("", text)
