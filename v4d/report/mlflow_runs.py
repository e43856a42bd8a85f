"""Any set of MLflow runs in one table, each data set by itself."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from v4d.config.paths import ResultsPaths
from v4d.datasets.published import published_results
from v4d.errors import V4DError
from v4d.evaluation.results import COSTS
from v4d.report.comparison import COLUMNS, Comparison, markdown, significance, with_published
from v4d.tracking import mlflow_client
from v4d.utils.files import write_csv, write_text

PREDICTIONS = "test/predictions.parquet"
SQLITE = "sqlite:///"


@dataclass(frozen=True)
class RunsOfADataset:
    """Runs that were tested on the same split of the same data set."""

    fingerprint: str
    split: str
    comparison: Comparison


def compare_runs(
    uri: str, *, run_ids: Sequence[str] | None = None, experiment: str | None = None
) -> list[RunsOfADataset]:
    """Tested runs by their ids, or all of an experiment; a comparison for every data set among them.

    Raises:
        V4DError: MLflow does not answer or is not installed, a run or experiment is unknown, or none of
            the runs was tested.
    """
    database = Path(uri.removeprefix(SQLITE).partition("?")[0])
    if uri.startswith(SQLITE) and not database.is_file():  # MLflow would make one
        raise V4DError(f"{uri}: no such database: {database}")
    run_ids = list(dict.fromkeys(run_ids or ()))
    try:
        client = mlflow_client(uri)
        runs = [client.get_run(run_id) for run_id in run_ids] if run_ids else _runs_of(client, experiment)
    except V4DError:
        raise
    except Exception as error:  # whatever the store raises
        raise V4DError(f"{uri}: {str(error).strip().splitlines()[0]}") from error
    tested = [run for run in runs if "test/top1" in run.data.metrics]
    if not tested:
        raise V4DError(f"{uri}: none of the {len(runs)} runs was tested (they have no metric test/top1)")
    groups: dict[tuple[str, str], list[Any]] = {}
    for run in tested:
        tags = run.data.tags
        fingerprint = tags.get("dataset_fingerprint", f"unknown, of run {run.info.run_id}")
        groups.setdefault((fingerprint, tags.get("tested_split", "")), []).append(run)
    return [RunsOfADataset(*data, _comparison(client, group)) for data, group in groups.items()]


def _runs_of(client: Any, experiment: str | None) -> list[Any]:
    found = client.get_experiment_by_name(experiment)
    if found is None:
        raise V4DError(f"no MLflow experiment {experiment!r}")
    runs, token = [], None
    while True:
        page = client.search_runs([found.experiment_id], page_token=token)
        runs += page
        token = page.token
        if not token:
            return runs


def _comparison(client: Any, runs: list[Any]) -> Comparison:
    named, tags = _named(runs), runs[0].data.tags
    return Comparison(
        dataset=tags.get("dataset", "unknown data set"),
        models=pd.DataFrame([_row(name, run) for name, run in named.items()], columns=COLUMNS),
        published=published_results(tags.get("published_dataset") or None),
        significance=_significance(client, named),
        results={name: _result(run) for name, run in named.items()},
    )


def _named(runs: list[Any]) -> dict[str, Any]:
    """Runs by their names, with the id's beginning behind where two are alike."""
    plain = [run.info.run_name or run.info.run_id for run in runs]
    return {
        f"{name} {run.info.run_id[:8]}" if plain.count(name) > 1 else name: run
        for name, run in zip(plain, runs, strict=True)
    }


def _row(name: str, run: Any) -> dict[str, Any]:
    tags, metrics = run.data.tags, run.data.metrics
    row: dict[str, Any] = {key: tags.get(key) for key in ("arch", "preset")}
    row |= {key: _number(tags.get(key)) for key in ("units", "frames", "parameters", "gmac")}
    row |= {key: metrics.get(f"test/{key}") for key in COLUMNS if key.startswith("top")}
    row |= {key: metrics.get(f"test/{key[5:]}") for key in COSTS} | {"seeds": 1}
    return row | {"model": name, "videos": metrics.get("test/videos"), "mlflow_run_id": run.info.run_id}


def _result(run: Any) -> dict[str, Any]:
    """What of metrics.json a comparison shows, as far as the run has it."""
    metrics = run.data.metrics
    result: dict[str, Any] = {"videos": int(metrics.get("test/videos", 0))}
    interval = [metrics.get(f"test/top1_interval_{end}") for end in ("low", "high")]
    return result if None in interval else result | {"top1_interval": interval}


def _number(text: str | None) -> float | None:
    """A number, or None: tags can be changed by anybody."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _significance(client: Any, runs: dict[str, Any]) -> pd.DataFrame:
    """McNemar's test between the runs whose predictions are among the artifacts."""
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for number, (name, run) in enumerate(runs.items()):
            place = Path(folder) / str(number)
            place.mkdir()
            try:
                files[name] = Path(client.download_artifacts(run.info.run_id, PREDICTIONS, str(place)))
            except Exception:  # never logged, or deleted: whatever the artifact store raises
                continue
        return significance(files)


def write(groups: list[RunsOfADataset], folder: Path) -> None:
    """The files of a config's comparison, for all data sets; their rows say which data they are about."""
    paths = ResultsPaths(folder)
    tables = {
        paths.comparison: [group.comparison.models for group in groups],
        paths.published: [with_published(group.comparison) for group in groups],
        paths.significance: [group.comparison.significance for group in groups],
    }
    for path, parts in tables.items():
        parts = [
            part.astype(object).assign(
                dataset=part.get("dataset", group.comparison.dataset),
                dataset_fingerprint=group.fingerprint,
                split=group.split,
            )
            for part, group in zip(parts, groups, strict=True)
        ]
        write_csv(path, pd.concat(parts))
    write_text(paths.comparison_text, text(groups))


def text(groups: list[RunsOfADataset]) -> str:
    """A Markdown comparison for every data set."""
    return "\n".join(markdown(group.comparison) for group in groups)
