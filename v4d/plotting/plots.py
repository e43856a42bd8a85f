"""Plots of tests, each one figure drawn from plain tables."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from v4d.plotting.style import COLOURS, STYLE, colour_of, new_figure, short

FEW_CLASSES = 24
"""Up to here every class has its name on a plot."""


@matplotlib.rc_context(STYLE)
def confusion(counts: pd.DataFrame) -> Figure:
    """The confusion matrix as shares of each label's videos.

    `counts` has the labels in its first column, then a column a class. Few classes are named and
    numbered; of many the diagonal, blocks and strays are what a reader can see.
    """
    classes = [str(label) for label in counts.iloc[:, 0]]
    matrix = counts.iloc[:, 1:].to_numpy(dtype=float)
    total = matrix.sum(1, keepdims=True)
    shares = np.divide(100 * matrix, total, out=np.full_like(matrix, np.nan), where=total > 0)
    few = len(classes) <= FEW_CLASSES
    side = min(9.0, 2.6 + 0.42 * len(classes)) if few else 6.6
    figure, axes = new_figure(side + 1.0, side)
    axes.grid(False)
    norm = PowerNorm(0.5, 0, 100)  # makes 5 % visible beside 90
    image = axes.imshow(shares, cmap="Blues", norm=norm, interpolation="nearest", aspect="equal")
    label = "share of the label's videos, %"
    figure.colorbar(image, ax=axes, label=label, fraction=0.045, ticks=[0, 5, 25, 50, 100])
    axes.set(xlabel="predicted", ylabel="label")
    if few:
        names = [short(name, 22) for name in classes]
        axes.set_xticks(range(len(classes)), names, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(classes)), names)
        for row, column in zip(*np.nonzero(matrix), strict=True):
            colour = "white" if shares[row, column] > 45 else "#222222"
            axes.text(column, row, f"{matrix[row, column]:.0f}", ha="center", va="center", color=colour)
    else:
        axes.set(xlabel=f"predicted (class index, {len(classes)} classes)", ylabel="label (class index)")
    return figure


@matplotlib.rc_context(STYLE)
def per_class(table: pd.DataFrame) -> Figure:
    """Top-1 of each class, best first; of many classes all as a profile, and both ends by name."""
    table = table[table["videos"] > 0].sort_values("top1", ascending=False, kind="stable")
    if len(table) <= FEW_CLASSES:
        figure, axes = new_figure(5.4, 0.9 + 0.27 * len(table))
        _class_bars(axes, table, table["top1"].mean())
        return figure
    figure, (best, worst, profile) = new_figure(10.2, 4.2, columns=3, width_ratios=[1, 1, 1.15])
    mean = table["top1"].mean()
    for axes, rows, title in (
        (best, table.head(12), "best classes"),
        (worst, table.tail(12), "worst classes"),
    ):
        _class_bars(axes, rows, mean)
        axes.set_title(title)
    place = np.arange(1, len(table) + 1)
    profile.fill_between(place, table["top1"], step="mid", color=COLOURS[0], alpha=0.35, linewidth=0)
    profile.step(place, table["top1"], where="mid", color=COLOURS[0], linewidth=1)
    profile.axhline(mean, color="#444444", linewidth=1, linestyle="--")
    profile.annotate(f"mean {mean:.1f}", (1, mean), (4, 3), textcoords="offset points", color="#444444")
    profile.set(title="all classes", xlabel="classes, best first", xlim=(1, len(table)))
    profile.set(ylabel="top-1, %", ylim=(0, 103))
    return figure


@matplotlib.rc_context(STYLE)
def reliability(table: pd.DataFrame, error: float) -> Figure:
    """Accuracy against confidence, and how many videos there are of each confidence."""
    figure, (axes, share) = new_figure(4.2, 4.4, rows=2, height_ratios=[3, 1])
    filled = table[table["videos"] > 0]
    centre, width = (filled["low"] + filled["high"]) / 2, filled["high"] - filled["low"]
    axes.bar(centre, filled["accuracy"], width * 0.94, color=COLOURS[0], alpha=0.85, label="accuracy")
    axes.plot(filled["confidence"], filled["accuracy"], "o", color="#222222", markersize=3)
    axes.plot([0, 100], [0, 100], color="#444444", linewidth=1, linestyle="--", label="perfect calibration")
    axes.set(ylabel="top-1, %", ylim=(0, 103), title=f"expected calibration error {error:.1f} %")
    axes.legend(loc="upper left", frameon=True, facecolor="white", edgecolor="none", framealpha=0.85)
    share.bar(centre, 100 * filled["videos"] / filled["videos"].sum(), width * 0.94, color="#9a9a9a")
    share.set(ylabel="videos, %", xlabel="confidence, %")
    for part in (axes, share):
        part.set_xlim(-1, 101)
    return figure


@matplotlib.rc_context(STYLE)
def temporal_order(models: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Top-1 of each model in each order; `models` are contents of metrics.json of the test, by name."""
    orders = list(dict.fromkeys(order for result in models.values() for order in result["orders"]))
    names = list(models)
    figure, axes = new_figure(max(4.6, 1.6 + 0.55 * len(orders) * len(names)), 3.2)
    width = 0.84 / len(orders)
    for number, order in enumerate(orders):
        x = np.arange(len(names)) + (number - (len(orders) - 1) / 2) * width
        y = [models[name]["orders"].get(order, {}).get("top1", np.nan) for name in names]
        bars = axes.bar(x, y, width * 0.92, color=colour_of(number), label=order.replace("_", " "))
        labels = ["" if np.isnan(value) else f"{value:.1f}" for value in y]
        plate = {"facecolor": "white", "edgecolor": "none", "pad": 0.4, "alpha": 0.85}
        axes.bar_label(bars, labels, padding=2, fontsize=8, bbox=plate)
    _chance(axes, models)
    axes.set_xticks(range(len(names)), names)
    axes.set(ylabel="top-1, %", ylim=(0, 110), yticks=range(0, 101, 20))
    axes.grid(axis="x", visible=False)
    axes.legend(ncols=min(3, len(orders)), loc="lower left", bbox_to_anchor=(0, 1), fontsize=8.5)
    return figure


@matplotlib.rc_context(STYLE)
def by_units(models: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Top-1 of one crop by the number of units of a test video."""
    figure, axes = new_figure(4.6, 3.0)
    values: list[float] = []
    for number, (name, result) in enumerate(models.items()):
        counts = [int(count) for count in result["by_units"]]
        top1 = [accuracies["top1"] for accuracies in result["by_units"].values()]
        axes.plot(counts, top1, "o-", color=colour_of(number), label=name, markersize=4)
        values += top1
    axes.set(xlabel="units of a test video", ylabel="top-1 of one crop, %")
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
    figure, axes = new_figure(5.6, 0.9 + 0.3 * len(rows))
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
    axes.set_yticks(place, [short(row["name"], 40) for row in rows])
    axes.set(xlim=(0, 112), xticks=range(0, 101, 20), xlabel="top-1, %")
    axes.grid(axis="y", visible=False)
    return figure


def _class_bars(axes: Axes, table: pd.DataFrame, mean: float) -> None:
    place = np.arange(len(table))[::-1]
    axes.barh(place, table["top1"], 0.74, color=COLOURS[0])
    for y, top1, videos in zip(place, table["top1"], table["videos"], strict=True):
        axes.text(top1 + 1.5, y, f"{top1:.0f}  ({videos})", va="center", fontsize=8, color="#444444")
    axes.axvline(mean, color="#444444", linewidth=1, linestyle="--")
    axes.set_yticks(place, [short(str(name), 26) for name in table["label"]])
    axes.set(xlim=(0, 124), xticks=range(0, 101, 25), xlabel="top-1, % (videos)")
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
