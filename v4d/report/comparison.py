"""All models of a config in one table, the published results beside it, and which differences are real.

results/<name>/comparison.csv              COLUMNS, a row a model: means over its seeds
results/<name>/comparison_seeds.csv        a row a seed of each model, where there are several
results/<name>/comparison_tables.csv       the tables that the config asks for, if it does
results/<name>/comparison_published.csv    the same accuracies with the published ones, each marked
results/<name>/significance.csv            McNemar's test for every two models
results/<name>/comparison.md               all of these for a reader
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from v4d.config import Config
from v4d.config.paths import ResultsPaths
from v4d.data.index import dataset_info
from v4d.datasets import open_source
from v4d.datasets.published import published_results
from v4d.errors import V4DError
from v4d.evaluation.metrics import mcnemar
from v4d.evaluation.predictions import read_columns
from v4d.report.paper_tables import NOTE, ONE_SEED, for_readers, table_frames
from v4d.utils.files import read_json, write_csv, write_text

COLUMNS = [
    "model", "arch", "preset", "units", "frames", "parameters", "gmac", "top1", "top5", "top1_units_reversed",
    "top1_frames_reversed", "videos", "mlflow_run_id", "test_gmac", "test_seconds_per_video", "seeds",
    "top1_std",
]  # fmt: skip
MEANS = ("top1", "top5", "test_seconds_per_video")
T_QUANTILES = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""Student's t at 97.5 %, for 2 to 10 seeds; then 1.96 + 2.5 / (seeds - 1), which is right to 1 %."""
NEEDED = ("top1", "top5", "top1_interval", "orders", "by_units", "videos", "dataset_fingerprint", "split")
"""What a model's metrics.json must have."""


@dataclass(frozen=True)
class Comparison:
    """The tables; `published` has rows only where others published on this very data set."""

    dataset: str
    models: pd.DataFrame  # COLUMNS
    published: pd.DataFrame
    significance: pd.DataFrame
    results: dict[str, dict[str, Any]]  # metrics.json of each model's test, see `over_seeds`
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)  # metrics.json of each run's
    tables: list[pd.DataFrame] = field(default_factory=list)  # as `table_frames`


def compare(config: Config) -> Comparison:
    """Read the tests of all models of a config.

    Raises:
        V4DError: no models, or one that is not tested, or on other data than the data set's of today.
    """
    if not config.models:
        raise V4DError(f"the config {config.name!r} has no models to compare")
    info = dataset_info(config)
    results: dict[str, dict[str, Any]] = {}
    runs: dict[str, dict[str, Any]] = {}
    for name in config.models:
        of_model = {run: _result(config, run, info["fingerprint"]) for run in config.runs(name)}
        runs |= of_model
        results[name] = over_seeds(list(of_model.values()))
    models = models_table(results)
    pairs = significance({name: config.paths.predictions(name) for name in config.models})
    name_of_published = open_source(config.dataset).published_name(info["classes"], config.testing.split)
    return Comparison(
        dataset=info["name"],
        models=models,
        published=published_results(name_of_published),
        significance=pairs,
        results=results,
        runs=runs,
        tables=table_frames(config.tables, models, pairs, results),
    )


def over_seeds(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """metrics.json of a model: of its only run, or of the first one with means over all.

    Of several, `seeds` is their number, `top1_std` the standard deviation between them, and `top1_interval`
    that of Student's t for the mean: it holds the noise of training, which that of one run does not.
    """
    first, count = runs[0], len(runs)
    if count == 1:
        return first | {"seeds": 1}
    mean: dict[str, Any] = {key: _mean([run.get(key) for run in runs]) for key in MEANS}
    for group in ("orders", "by_units"):
        mean[group] = {
            name: {key: _mean([run[group].get(name, {}).get(key) for run in runs]) for key in accuracies}
            for name, accuracies in first[group].items()
        }
    std = float(np.std([run["top1"] for run in runs], ddof=1))
    quantile = (T_QUANTILES + (1.96 + 2.5 / (count - 1),) * count)[count - 2]
    half = quantile * std / count**0.5
    interval = [max(0.0, mean["top1"] - half), min(100.0, mean["top1"] + half)]
    return first | mean | {"seeds": count, "top1_std": std, "top1_interval": interval}


def _mean(values: Sequence[float | None]) -> float | None:
    return None if None in values else float(np.mean(values))  # type: ignore[arg-type]


def _result(config: Config, run: str, fingerprint: str) -> dict[str, Any]:
    """metrics.json of a run's test, which has to be one of this data: accuracies of two never mix."""
    config, model = config.run(run)  # with its own `testing`
    path = config.paths.test_metrics(model.name)
    result = read_json(path)
    lacking = [key for key in NEEDED if not isinstance(result, dict) or key not in result]
    if lacking:
        raise V4DError(f"{path} has no {lacking[0]}: test the model again")
    tested = result["dataset_fingerprint"], result["split"]
    if tested != (fingerprint, config.testing.split):
        raise V4DError(
            f"model {run!r} was tested on other data (fingerprint {tested[0][:12]}, split {tested[1]}) than "
            f"there is now ({fingerprint[:12]}, {config.testing.split}): test it again"
        )
    return result


def models_table(results: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """`COLUMNS` from the contents of metrics.json by model."""
    rows = []
    for name, result in results.items():
        row = {column: result.get(column) for column in COLUMNS}
        row["model"] = name
        for order in ("units_reversed", "frames_reversed"):
            row[f"top1_{order}"] = result["orders"].get(order, {}).get("top1")
        rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def seeds_table(runs: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """A row a run, by model and seed."""
    table = models_table(runs).drop(columns=["seeds", "top1_std"])
    table["model"] = [name.partition("/")[0] for name in runs]
    table.insert(1, "seed", [result.get("seed") for result in runs.values()])
    return table


def significance(predictions: dict[str, Path]) -> pd.DataFrame:
    """McNemar's test between every two models that were tested on the same videos, by their predictions.

    Of several seeds of a model the first counts.

    `only_first` counts the videos that just the first one gets right. Of models tested on different
    videos there is nothing to say: `same_videos` is False and the rest is empty.
    """
    right = {name: _right_by_video(path) for name, path in predictions.items()}
    rows = []
    for first, second in itertools.combinations(right, 2):
        same = right[first].index.equals(right[second].index)
        row: dict[str, Any] = {"first": first, "second": second, "same_videos": same}
        if same:
            row["top1_difference"] = 100 * float(right[first].mean() - right[second].mean())
            row |= vars(mcnemar(right[first].to_numpy(), right[second].to_numpy()))
        rows.append(row)
    columns = ["first", "second", "same_videos", "top1_difference", "only_first", "only_second", "p_value"]
    return pd.DataFrame(rows, columns=columns).astype({"same_videos": bool})  # also without rows


def write(comparison: Comparison, paths: ResultsPaths) -> None:
    """Write the files that the module names."""
    optional = {
        paths.comparison_seeds: seeds_table(comparison.runs) if several_seeds(comparison) else None,
        paths.comparison_tables: pd.concat([frame.astype(object) for frame in comparison.tables])
        if comparison.tables
        else None,
    }
    for path, table in optional.items():
        if table is None:
            path.unlink(missing_ok=True)  # of a config that asked for it
        else:
            write_csv(path, table)
    write_csv(paths.comparison, comparison.models)
    write_csv(paths.significance, comparison.significance)
    write_csv(paths.published, with_published(comparison))
    write_text(paths.comparison_text, markdown(comparison))


def with_published(comparison: Comparison) -> pd.DataFrame:
    """Our rows and the published ones of the same data set; `origin` tells whose they are."""
    ours = comparison.models.assign(dataset=comparison.dataset, origin="this run", backbone="")
    columns = [
        "dataset", "model", "backbone", "arch", "preset", "units", "frames", "top1", "top5",
        "top1_units_reversed", "top1_frames_reversed", "origin",
    ]  # fmt: skip
    published = comparison.published.reindex(columns=columns)
    published["origin"] = "published: " + published["origin"]
    tables = [table for table in (ours[columns], published) if len(table)]
    return pd.concat([t.astype(object) for t in tables], ignore_index=True)[columns]


def markdown(comparison: Comparison) -> str:
    """The comparison for a reader."""
    counts = sorted({result["videos"] for result in comparison.results.values()})
    table = comparison.models.copy()
    table.insert(8, "95 % interval", [_interval(comparison.results.get(name)) for name in table["model"]])
    note = (
        f"Top-1 and top-5 in percent, on {' / '.join(map(str, counts))} videos; GMAC for one training view."
    )
    title = f"# {comparison.dataset}: comparison of models"
    lines = [title, "", note, "", markdown_table(shown(table)), ""]
    if comparison.tables:
        for frame in comparison.tables:
            lines += [f"## {frame['table'].iloc[0]}", "", markdown_table(for_readers(frame)), ""]
        lines += [NOTE, ""]
    if not several_seeds(comparison) and (comparison.tables or len(comparison.published)):
        lines += [ONE_SEED, ""]
    tested = comparison.significance[comparison.significance["same_videos"]]
    if len(tested):
        table = tested.drop(columns="same_videos")
        note = "McNemar's exact test on the same videos, two-sided; below 0.05 chance is an unlikely reason."
        lines += ["## Which differences are real", "", note, "", markdown_table(table), ""]
    if len(comparison.published):
        title = f"## Published results on {comparison.published['dataset'].iloc[0]}"
        table = comparison.published.dropna(axis=1, how="all").drop(columns="dataset")
        note = "Not measured here. Other training, and other copies of the data set."
        lines += [title, "", note, "", markdown_table(table), ""]
    return "\n".join(lines)


def several_seeds(comparison: Comparison) -> bool:
    """Whether any model was trained with more than one seed."""
    return len(comparison.runs) > len(comparison.results)


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """The comparison without number of seeds and deviation where each model has one seed."""
    return table.drop(columns=["seeds", "top1_std"]) if table["top1_std"].isna().all() else table


def markdown_table(table: pd.DataFrame) -> str:
    """A table in GitHub's Markdown; what comes from outside cannot break it."""
    rows = [list(table.columns), *([cell_text(v, c) for c, v in row.items()] for _, row in table.iterrows())]
    rows = [[_escaped(str(cell)) for cell in row] for row in rows]
    numeric = [pd.api.types.is_numeric_dtype(table[column]) for column in table.columns]
    rule = ["---:" if right else "---" for right in numeric]
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]])


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def cell_text(value: Any, column: str) -> str:
    """A number as a reader wants it, by its column."""
    column = column.removesuffix("_published").removesuffix("_difference")
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    if column == "p_value":
        return "< 0.0001" if value < 1e-4 else f"{value:.4f}"
    if column == "parameters":
        return f"{value / 1e6:.2f} M"
    if column in ("gmac", "test_gmac"):
        return f"{value:.1f}" if value >= 10 else f"{value:.3g}"
    if column == "test_seconds_per_video":
        return f"{value:.3g}"
    if isinstance(value, float | np.floating):
        whole = column in ("units", "frames", "videos", "only_first", "only_second", "seeds")
        return f"{value:.0f}" if whole else f"{value:.1f}"
    return str(value)


def _interval(result: dict[str, Any] | None) -> str:
    if not result or "top1_interval" not in result:
        return ""
    low, high = result["top1_interval"]
    return f"{low:.1f} to {high:.1f}"


def _right_by_video(path: Path) -> pd.Series:
    table = read_columns(path, ["video_id", "label_rank"]).to_pandas()
    return (table.set_index("video_id")["label_rank"] == 0).sort_index()
