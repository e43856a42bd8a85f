"""Plots of a report. Each function draws one figure from plain tables and knows nothing of files.

Figures are made without pyplot, which would keep them all in memory and want a display.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from v4d.files import atomic_path

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5F5F5F")
"""Okabe and Ito's, told apart by colour-blind readers too."""
DPI = 150
FEW_CLASSES = 24
"""Up to here every class has its name on a plot."""
ORDER_NAMES = {
    "normal": "normal",
    "units_reversed": "units reversed",
    "frames_reversed": "frames reversed",
    "both_reversed": "both reversed",
    "units_shuffled": "units shuffled",
}
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "text.parse_math": False,  # a label may hold a dollar sign
    "svg.hashsalt": "v4d",  # the same plot is the same file
}


def save(path: Path, figure: Figure) -> None:
    """Write a figure as PNG or SVG, by the path's ending."""
    with atomic_path(path) as temporary, matplotlib.rc_context(STYLE):
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(temporary, dpi=DPI, bbox_inches="tight", pad_inches=0.06, metadata=metadata)


@matplotlib.rc_context(STYLE)
def training_curves(stages: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss, accuracy and learning rate over the epochs of all stages, one after the other.

    `stages` are the contents of their metrics.json.
    """
    rows = [dict(epoch, stage=stage["stage"]) for stage in stages for epoch in stage["epochs"]]
    table = pd.DataFrame(rows)
    table["x"] = np.arange(1, len(table) + 1)
    figure, (loss, top1, rate) = _figure(9.2, 2.9, columns=3)
    _lines(loss, table, {"train/loss": "training", "val/loss": "validation"}, "loss")
    loss.set_ylim(bottom=0)
    _lines(top1, table, {"train/top1": "training", "val/top1": "validation"}, "top-1, %")
    top1.set_ylim(0, 103)
    _lines(rate, table, {"train/lr": "learning rate"}, "learning rate")
    rate.set_ylim(bottom=0)
    rate.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for axes in (loss, top1, rate):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        if len(stages) > 1:
            _stage_bounds(axes, table)
    return figure


@matplotlib.rc_context(STYLE)
def validation_curves(models: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Validation top-1 of all models over the epochs of their last stage."""
    figure, axes = _figure(5.2, 3.1)
    for number, (name, stages) in enumerate(models.items()):
        epochs = [e for e in stages[-1]["epochs"] if e.get("val/top1") is not None]
        x, y = [e["epoch"] for e in epochs], [e["val/top1"] for e in epochs]
        axes.plot(x, y, label=name, color=_colour(number), marker="o" if len(x) < 20 else None, markersize=3)
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation top-1, %")
    axes.set_ylim(0, 103)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    return figure


@matplotlib.rc_context(STYLE)
def confusion(counts: pd.DataFrame) -> Figure:
    """The confusion matrix as shares of each label's videos.

    `counts` has a column `label` and one a class. Few classes are named and numbered; of many the
    diagonal, blocks and strays are what a reader can see.
    """
    classes = [str(label) for label in counts["label"]]
    matrix = counts.drop(columns="label").to_numpy(dtype=float)
    total = matrix.sum(1, keepdims=True)
    shares = np.divide(100 * matrix, total, out=np.full_like(matrix, np.nan), where=total > 0)
    few = len(classes) <= FEW_CLASSES
    side = min(9.0, 2.6 + 0.42 * len(classes)) if few else 6.6
    figure, axes = _figure(side + 1.0, side)
    axes.grid(False)
    norm = PowerNorm(0.5, 0, 100)  # a stray of 5 % must show beside a diagonal of 90
    image = axes.imshow(shares, cmap="Blues", norm=norm, interpolation="nearest", aspect="equal")
    figure.colorbar(
        image, ax=axes, label="share of the label's videos, %", fraction=0.045, ticks=[0, 5, 25, 50, 100]
    )
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")
    if few:
        names = [_short(name, 22) for name in classes]
        axes.set_xticks(range(len(classes)), names, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(classes)), names)
        for row, column in zip(*np.nonzero(matrix), strict=True):
            colour = "white" if shares[row, column] > 45 else "#222222"
            axes.text(column, row, f"{matrix[row, column]:.0f}", ha="center", va="center", color=colour)
    else:
        axes.set_xlabel(f"predicted (class index, {len(classes)} classes)")
        axes.set_ylabel("label (class index)")
    return figure


@matplotlib.rc_context(STYLE)
def per_class(table: pd.DataFrame) -> Figure:
    """Top-1 of each class, best first; of many classes all as a profile, and both ends by name."""
    table = table[table["videos"] > 0].sort_values("top1", ascending=False, kind="stable")
    if len(table) <= FEW_CLASSES:
        figure, axes = _figure(5.4, 0.9 + 0.27 * len(table))
        _class_bars(axes, table, table["top1"].mean())
        return figure
    figure, (best, worst, profile) = _figure(10.2, 4.2, columns=3, width_ratios=[1, 1, 1.15])
    mean = table["top1"].mean()
    _class_bars(best, table.head(12), mean)
    best.set_title("best classes")
    _class_bars(worst, table.tail(12), mean)
    worst.set_title("worst classes")
    place = np.arange(1, len(table) + 1)
    profile.fill_between(place, table["top1"], step="mid", color=COLOURS[0], alpha=0.35, linewidth=0)
    profile.step(place, table["top1"], where="mid", color=COLOURS[0], linewidth=1)
    profile.axhline(mean, color="#444444", linewidth=1, linestyle="--")
    profile.annotate(f"mean {mean:.1f}", (1, mean), (4, 3), textcoords="offset points", color="#444444")
    profile.set_title("all classes")
    profile.set_xlabel("classes, best first")
    profile.set_ylabel("top-1, %")
    profile.set_ylim(0, 103)
    profile.set_xlim(1, len(table))
    return figure


@matplotlib.rc_context(STYLE)
def reliability(table: pd.DataFrame, error: float) -> Figure:
    """Accuracy against confidence, and how many videos there are of each confidence."""
    figure, (axes, share) = _figure(4.2, 4.4, rows=2, height_ratios=[3, 1])
    filled = table[table["videos"] > 0]
    centre, width = (filled["low"] + filled["high"]) / 2, filled["high"] - filled["low"]
    axes.bar(centre, filled["accuracy"], width * 0.94, color=COLOURS[0], alpha=0.85, label="accuracy")
    axes.plot(filled["confidence"], filled["accuracy"], "o", color="#222222", markersize=3)
    axes.plot([0, 100], [0, 100], color="#444444", linewidth=1, linestyle="--", label="perfect calibration")
    axes.set_ylabel("top-1, %")
    axes.set_ylim(0, 103)
    axes.set_title(f"expected calibration error {error:.1f} %")
    axes.legend(loc="upper left", frameon=True, facecolor="white", edgecolor="none", framealpha=0.85)
    share.bar(centre, 100 * filled["videos"] / filled["videos"].sum(), width * 0.94, color="#9a9a9a")
    share.set_ylabel("videos, %")
    share.set_xlabel("confidence, %")
    for part in (axes, share):
        part.set_xlim(-1, 101)
    return figure


@matplotlib.rc_context(STYLE)
def temporal_order(models: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Top-1 of each model in each order; `models` are contents of metrics.json of the test, by name."""
    orders = list(dict.fromkeys(order for result in models.values() for order in result["orders"]))
    names = list(models)
    figure, axes = _figure(max(4.6, 1.6 + 0.55 * len(orders) * len(names)), 3.2)
    width = 0.84 / len(orders)
    for number, order in enumerate(orders):
        x = np.arange(len(names)) + (number - (len(orders) - 1) / 2) * width
        y = [models[name]["orders"].get(order, {}).get("top1", np.nan) for name in names]
        bars = axes.bar(x, y, width * 0.92, color=_colour(number), label=ORDER_NAMES.get(order, order))
        labels = ["" if np.isnan(value) else f"{value:.1f}" for value in y]
        plate = {"facecolor": "white", "edgecolor": "none", "pad": 0.4, "alpha": 0.85}
        axes.bar_label(bars, labels, padding=2, fontsize=8, bbox=plate)
    _chance(axes, models)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("top-1, %")
    axes.set_ylim(0, 110)
    axes.set_yticks(range(0, 101, 20))
    axes.grid(axis="x", visible=False)
    axes.legend(ncols=min(3, len(orders)), loc="lower left", bbox_to_anchor=(0, 1), fontsize=8.5)
    return figure


@matplotlib.rc_context(STYLE)
def by_units(models: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Top-1 of one crop by the number of units of a test video."""
    figure, axes = _figure(4.6, 3.0)
    values: list[float] = []
    for number, (name, result) in enumerate(models.items()):
        counts = [int(count) for count in result["by_units"]]
        top1 = [accuracies["top1"] for accuracies in result["by_units"].values()]
        axes.plot(counts, top1, "o-", color=_colour(number), label=name, markersize=4)
        values += top1
    axes.set_xlabel("units of a test video")
    axes.set_ylabel("top-1 of one crop, %")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    low, high = min(values, default=0), max(values, default=100)
    margin = max(2.0, 0.15 * (high - low))
    axes.set_ylim(max(0, low - margin), min(103, high + margin))
    if any(models):
        axes.legend()
    return figure


@matplotlib.rc_context(STYLE)
def accuracies(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Top-1 of all models with their intervals; published ones in grey.

    Each row has `name`, `top1`, `interval` (low and high, or None) and `published`.
    """
    figure, axes = _figure(5.6, 0.9 + 0.3 * len(rows))
    place = np.arange(len(rows))[::-1]
    colours = ["#b0b0b0" if row["published"] else COLOURS[0] for row in rows]
    axes.barh(place, [row["top1"] for row in rows], 0.72, color=colours)
    for y, row in zip(place, rows, strict=True):
        right = row["top1"]
        if row["interval"]:
            low, right = row["interval"]
            error = [[max(0.0, row["top1"] - low)], [max(0.0, right - row["top1"])]]
            axes.errorbar(row["top1"], y, xerr=error, color="#222222", capsize=3, linewidth=1)
        axes.text(right + 1, y, f"{row['top1']:.1f}", va="center", fontsize=8.5)
    axes.set_yticks(place, [_short(row["name"], 40) for row in rows])
    axes.set_xlim(0, 112)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("top-1, %")
    axes.grid(axis="y", visible=False)
    return figure


@matplotlib.rc_context(STYLE)
def timeline(prediction: Any, classes: Sequence[str], count: int = 3) -> Figure:
    """What each unit of a video says about the video's best classes, over time, above the units' pictures.

    `prediction` is a `v4d.evaluation.predict.Prediction` with evidence.
    """
    evidence = prediction.evidence
    figure, (axes, strip) = _figure(9.0, 4.4, rows=2, height_ratios=[3.2, 1])
    for number, (index, share) in enumerate(prediction.top(count)):
        label = f"{_short(classes[index], 34)}  (video: {100 * share:.1f} %)"
        y = 100 * evidence.probabilities[:, index]
        axes.plot(evidence.seconds, y, "o-", color=_colour(number), label=label, markersize=4)
    axes.set_ylabel("by one unit alone, %" if evidence.alone else "by a unit's features, %")
    axes.set_ylim(-3, 103)
    figure.suptitle(_short(prediction.path.name, 70), x=0.01, ha="left", fontweight="bold", fontsize=10.5)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=count, fontsize=8.5)
    duration = max(prediction.num_frames / (prediction.fps or 25.0), evidence.seconds[-1] + evidence.span / 2)
    strip.set_xlim(0, duration)
    strip.set_ylim(0, 1)
    strip.set_yticks([])
    strip.grid(False)
    strip.set_xlabel("seconds; grey: what a unit covers")
    _pictures(strip, evidence, duration)
    return figure


def _pictures(axes: Axes, evidence: Any, duration: float) -> None:
    """Units' pictures side by side, each tied to the span of time that the unit covers."""
    count = len(evidence.seconds)
    for place, (second, picture) in enumerate(zip(evidence.seconds, evidence.pictures, strict=True)):
        left, right = second - evidence.span / 2, second + evidence.span / 2
        axes.axvspan(left, right, 0.94, 1.0, color="#8a8a8a", alpha=0.4, linewidth=0)
        axes.plot([second, (place + 0.5) * duration / count], [0.94, 0.8], color="#b0b0b0", linewidth=0.8)
        box = axes.inset_axes((place / count, 0.02, 1 / count, 0.76))
        box.imshow(picture)
        box.set_axis_off()


def _figure(
    width: float, height: float, *, rows: int = 1, columns: int = 1, **layout: Any
) -> tuple[Figure, Any]:
    """A figure of inches and its axes."""
    figure = Figure((width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, gridspec_kw=layout, sharex=rows > 1)


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _lines(axes: Axes, table: pd.DataFrame, columns: Mapping[str, str], label: str) -> None:
    """Lines over the epochs for those columns that there are; lone points are dots."""
    for number, (column, name) in enumerate(columns.items()):
        if column in table and table[column].notna().any():
            known = table[table[column].notna()]
            marker = "o" if len(known) < 20 else None
            axes.plot(
                known["x"], known[column], color=_colour(number), label=name, marker=marker, markersize=3
            )
    axes.set_ylabel(label)
    if len(columns) > 1:
        axes.legend()


def _stage_bounds(axes: Axes, table: pd.DataFrame) -> None:
    for name, rows in table.groupby("stage", sort=False):
        first = rows["x"].iloc[0]
        if first > 1:
            axes.axvline(first - 0.5, color="#777777", linewidth=0.8, linestyle=":")
        axes.text(
            rows["x"].mean(), 1.01, _short(str(name), 14), transform=axes.get_xaxis_transform(), ha="center",
            va="bottom", fontsize=8, color="#555555",
        )  # fmt: skip


def _class_bars(axes: Axes, table: pd.DataFrame, mean: float) -> None:
    place = np.arange(len(table))[::-1]
    axes.barh(place, table["top1"], 0.74, color=COLOURS[0])
    for y, top1, videos in zip(place, table["top1"], table["videos"], strict=True):
        axes.text(top1 + 1.5, y, f"{top1:.0f}  ({videos})", va="center", fontsize=8, color="#444444")
    axes.axvline(mean, color="#444444", linewidth=1, linestyle="--")
    axes.set_yticks(place, [_short(str(name), 26) for name in table["label"]])
    axes.set_xlim(0, 124)
    axes.set_xticks(range(0, 101, 25))
    axes.set_xlabel("top-1, % (videos)")
    axes.grid(axis="y", visible=False)


def _chance(axes: Axes, models: Mapping[str, Mapping[str, Any]]) -> None:
    """The line of guessing, where it is high enough to be seen."""
    classes = {result.get("classes") for result in models.values()}
    if len(classes) == 1 and (count := classes.pop()) and count <= 50:
        axes.axhline(100 / count, color="#444444", linewidth=1, linestyle="--", zorder=1.5)
        axes.annotate(
            "chance", (1, 100 / count), (3, 0), xycoords=("axes fraction", "data"),
            textcoords="offset points", va="center", fontsize=8, color="#444444",
        )  # fmt: skip


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
