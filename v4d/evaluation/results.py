"""What follows from the predictions of a test: metrics.json, tables and plots beside them."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from v4d.evaluation import metrics
from v4d.evaluation.predictions import orders_in, read_outcomes, suffix, unit_counts_in, units_suffix
from v4d.evaluation.significance import bootstrap_interval
from v4d.utils.files import write_csv, write_json


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
    confusion.insert(0, "label", classes, allow_duplicates=True)  # a class may be called "label" as well
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
        "top1_interval": list(bootstrap_interval(normal.correct, seed=seed)),
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
    by_units.unlink(missing_ok=True)  # of an earlier test with more units
    if len(result["by_units"]) > 1:
        save(by_units, plots.by_units({"": result}))


def _accuracies(predictions: Path, end: str) -> dict[str, float]:
    results = read_outcomes(predictions, end)
    return {"top1": metrics.top_k(results, 1), "top5": metrics.top_k(results, 5)}
