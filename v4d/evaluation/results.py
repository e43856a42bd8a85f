"""What follows from the predictions of a test: metrics.json, tables, plots, and what the tracker gets."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch

from v4d.checkpoints import described
from v4d.config import config_sha
from v4d.data import index
from v4d.datasets import open_source
from v4d.distributed.group import DistributedContext
from v4d.evaluation import metrics
from v4d.evaluation.algorithm1 import video_scores
from v4d.evaluation.pieces import Clock, TestRun
from v4d.evaluation.predictions import orders_in, read_outcomes, suffix, unit_counts_in, units_suffix
from v4d.models import gmac, parameter_count
from v4d.models.base import VideoModel
from v4d.models.cost import gmac_of
from v4d.tracking import Tracker
from v4d.utils.files import write_csv, write_json, write_text
from v4d.utils.provenance import git_sha, hardware

COSTS = ("test_gmac", "test_seconds_per_video")
"""Of a video in normal order: billions of multiply-adds, and seconds of a process."""
TABLE = "predictions.json"
"""The predictions once more, as the table that MLflow's page shows."""


def summarise(folder: Path, classes: list[str], facts: dict[str, Any], *, seed: int = 0) -> dict[str, Any]:
    """Read `folder`/predictions.parquet and write beside it

        metrics.json       accuracies by order and by units, interval, calibration error, and `facts`
        per_class.csv      a row a class
        confused.csv       the most confused pairs
        confusion.csv      the confusion matrix as counts, rows are labels
        reliability.csv    confidence against accuracy
        *.png              plots of these

    Returns:
        The content of metrics.json.
    """
    predictions = folder / "predictions.parquet"
    normal = read_outcomes(predictions)
    matrix = metrics.confusion_matrix(normal, len(classes))
    error, reliability = metrics.calibration(normal)
    confusion = pd.DataFrame(matrix, columns=classes)
    confusion.insert(0, "label", classes, allow_duplicates=True)  # a class may have the name "label"
    tables = {
        "per_class": metrics.per_class(normal, classes),
        "confused": metrics.confused_pairs(matrix, classes),
        "confusion": confusion,
        "reliability": reliability,
    }
    for name, table in tables.items():
        write_csv(folder / f"{name}.csv", table)
    result = {
        "top1": metrics.top_k(normal, 1),
        "top5": metrics.top_k(normal, 5),
        "mean_class": metrics.mean_class_accuracy(normal),
        "videos": len(normal),
        "classes": len(classes),
        "classes_without_videos": int((matrix.sum(1) == 0).sum()),
        "top1_interval": list(metrics.bootstrap_interval(normal.correct, seed=seed)),
        "calibration_error": error,
        "mean_confidence": float(100 * np.mean(normal.confidence)),
        "orders": {order: _accuracies(predictions, suffix(order)) for order in orders_in(predictions)},
        "by_units": {
            str(count): _accuracies(predictions, units_suffix(count)) for count in unit_counts_in(predictions)
        },
        **facts,
    }
    write_json(folder / "metrics.json", result)
    draw(folder, result, tables)
    return result


def draw(folder: Path, result: dict[str, Any], tables: dict[str, pd.DataFrame]) -> None:
    """The plots of a test, as files."""
    from v4d.plotting import plots  # matplotlib takes a second to import
    from v4d.plotting.style import save

    save(folder / "confusion.png", plots.confusion(tables["confusion"]))
    save(folder / "per_class.png", plots.per_class(tables["per_class"]))
    save(folder / "reliability.png", plots.reliability(tables["reliability"], result["calibration_error"]))
    save(folder / "temporal_order.png", plots.temporal_order({"": result}))
    by_units = folder / "by_units.png"
    by_units.unlink(missing_ok=True)  # an earlier test may have had more units
    if len(result["by_units"]) > 1:
        save(by_units, plots.by_units({"": result}))


def _accuracies(predictions: Path, end: str) -> dict[str, float]:
    results = read_outcomes(predictions, end)
    return {"top1": metrics.top_k(results, 1), "top5": metrics.top_k(results, 5)}


def run_facts(run: TestRun, clocks: list[Clock], context: DistributedContext) -> dict[str, Any]:
    """For metrics.json: the model, the protocol, what it cost, and how fast and where it ran.

    Cost and speed are those of this attempt: pieces done before do not count.
    """
    model, testing = run.finished.model, run.config.testing
    side = model.input.crop or run.model.final.training.crop.size
    info = index.dataset_info(run.config)
    seconds, videos = max(clock.seconds for clock in clocks), sum(clock.videos for clock in clocks)
    return {
        "model": run.model.name,
        "seed": run.config.seed,
        **described(model),
        "frame_stride": run.finished.frame_stride,
        "parameters": parameter_count(model),
        "gmac": round(gmac(model, run.finished.units, run.finished.frames, side, side), 4),
        "test_units": run.units,
        "crops": testing.crops,
        "crop_size": testing.crop_size,
        "combinations": testing.combinations,
        "average": testing.average,
        "clip_level": model.clip_level,
        "precision": "bf16" if run.bf16 else "float32",
        "split": testing.split,
        "dataset": info["name"],
        "dataset_fingerprint": info["fingerprint"],
        "checkpoint": str(run.finished.path),
        "test_gmac": video_gmac(run, clocks),
        "test_seconds_per_video": sum(clock.normal for clock in clocks) / videos if videos else None,
        "seconds": round(seconds, 3),
        "videos_per_second": videos / max(seconds, 1e-9),
        "data_wait_fraction": sum(c.wait for c in clocks) / max(sum(c.seconds for c in clocks), 1e-9),
        "processes": context.size,
        "hardware": hardware(),
        "git_sha": git_sha(),
    }


def video_gmac(run: TestRun, clocks: list[Clock]) -> float | None:
    """Billions of multiply-adds of a video in normal order, all its crops, as they are computed.

    None where this attempt has found every piece done.
    """
    videos, crops = (sum(getattr(clock, what) for clock in clocks) for what in ("videos", "crops"))
    if not videos:
        return None
    network, testing, pixels = run.finished.model, run.config.testing, max(clock.pixels for clock in clocks)
    shape = (1, run.units, network.input.channels, run.finished.frames, *pixels)

    def score(model: VideoModel) -> object:
        x = torch.empty(shape, device="meta")
        return video_scores(model, x, combinations=testing.combinations, chunk=testing.chunk)

    return round(gmac_of(network, run.finished.frames, score) * crops / videos, 4)


def headline(result: dict[str, Any]) -> str:
    """A test in one line; `result` is the content of metrics.json."""
    orders = ", ".join(
        f"{order.replace('_', ' ')} {accuracies['top1']:.2f} %"
        for order, accuracies in result["orders"].items()
        if order != "normal"
    )
    line = f"top-1 {result['top1']:.2f} %, top-5 {result['top5']:.2f} % on {result['videos']} videos"
    return f"{line} ({orders})" if orders else line


def log(tracker: Tracker, run: TestRun, result: dict[str, Any]) -> None:
    """Everything of a test to its model's run in the tracker."""
    tags = ("dataset", "dataset_fingerprint", "git_sha", "parameters", "gmac")
    published = open_source(run.config.dataset).published_name(result["classes"], result["split"])
    said = {key: result[key] for key in (*described(run.finished.model), *tags)}
    said |= {"tested_units": result["test_units"], "tested_split": result["split"]}
    tracker.set_tags(said | {"config_sha": config_sha(run.config), "published_dataset": published or ""})
    names = ("top1", "top5", "mean_class", "calibration_error", "videos", "videos_per_second")
    numbers = {f"test/{name}": result[name] for name in (*names, "data_wait_fraction")}
    numbers |= {f"test/{name[5:]}": result[name] for name in COSTS if result[name] is not None}
    for end, value in zip(("low", "high"), result["top1_interval"], strict=True):
        numbers[f"test/top1_interval_{end}"] = value
    for order, accuracies in result["orders"].items():
        if order != "normal":
            numbers[f"test/top1_{order}"] = accuracies["top1"]
    epochs = sum(stage.training.epochs for stage in run.model.stages) if not run.model.checkpoint else 0
    tracker.log_metrics(numbers, step=epochs)
    # Not by `log_table`: MLflow would append the rows to those of an earlier test.
    # It goes without all the probabilities, small enough for a table in a browser.
    columns = [n for n in pq.read_schema(run.predictions).names if not n.startswith("probabilities")]
    rows = pq.read_table(run.predictions, columns=columns).to_pandas()
    write_text(run.folder / TABLE, rows.to_json(orient="split", index=False))
    tracker.set_tags({"mlflow.loggedArtifacts": json.dumps([{"path": f"test/{TABLE}", "type": "table"}])})
    for path in sorted(run.folder.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            tracker.log_artifact(path, "test")
