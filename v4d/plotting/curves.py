"""Plots over time: of a training over its epochs, of a video over its seconds."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from v4d.plotting.style import STYLE, colour_of, new_figure, short


@matplotlib.rc_context(STYLE)
def training_curves(stages: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss, accuracy and learning rate over the epochs of all stages, one after the other.

    `stages` are the contents of their metrics.json.
    """
    rows = [dict(epoch, stage=stage["stage"]) for stage in stages for epoch in stage["epochs"]]
    table = pd.DataFrame(rows)
    table["x"] = np.arange(1, len(table) + 1)
    figure, (loss, top1, rate) = new_figure(9.2, 2.9, columns=3)
    _lines(loss, table, {"train/loss": "training", "val/loss": "validation"}, "loss", 0)
    _lines(top1, table, {"train/top1": "training", "val/top1": "validation"}, "top-1, %", 0, 103)
    _lines(rate, table, {"train/lr": "learning rate"}, "learning rate", 0)
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
    figure, axes = new_figure(5.2, 3.1)
    for number, (name, stages) in enumerate(models.items()):
        epochs = [e for e in stages[-1]["epochs"] if e.get("val/top1") is not None]
        _line(axes, [e["epoch"] for e in epochs], [e["val/top1"] for e in epochs], number, name)
    axes.set(xlabel="epoch", ylabel="validation top-1, %", ylim=(0, 103))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    return figure


@matplotlib.rc_context(STYLE)
def timeline(prediction: Any, classes: Sequence[str], count: int = 3) -> Figure:
    """What each unit of a video says about the video's best classes, over time, above the units' pictures.

    `prediction` is a `v4d.evaluation.predict.Prediction` with evidence.
    """
    evidence = prediction.evidence
    figure, (axes, strip) = new_figure(9.0, 4.4, rows=2, height_ratios=[3.2, 1])
    for number, (index, share) in enumerate(prediction.top(count)):
        label = f"{short(classes[index], 34)}  (video: {100 * share:.1f} %)"
        y = 100 * evidence.probabilities[:, index]
        axes.plot(evidence.seconds, y, "o-", color=colour_of(number), label=label, markersize=4)
    axes.set(ylabel="by one unit alone, %" if evidence.alone else "by a unit's features, %", ylim=(-3, 103))
    figure.suptitle(short(prediction.path.name, 70), x=0.01, ha="left", fontweight="bold", fontsize=10.5)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=count, fontsize=8.5)
    duration = max(prediction.num_frames / (prediction.fps or 25.0), evidence.seconds[-1] + evidence.span / 2)
    strip.set(xlim=(0, duration), ylim=(0, 1), yticks=[], xlabel="seconds; grey: what a unit covers")
    strip.grid(False)
    _pictures(strip, evidence, duration)
    return figure


def _lines(axes: Axes, table: pd.DataFrame, columns: Mapping[str, str], label: str, *limits: float) -> None:
    """Lines over the epochs for those columns that there are."""
    for number, (column, name) in enumerate(columns.items()):
        if column in table and table[column].notna().any():
            known = table[table[column].notna()]
            _line(axes, known["x"], known[column], number, name)
    axes.set_ylabel(label)
    axes.set_ylim(*limits)
    if len(columns) > 1:
        axes.legend()


def _line(axes: Axes, x: Sequence[float], y: Sequence[float], number: int, name: str) -> None:
    """One curve; of a few points each is a dot."""
    marker = "o" if len(x) < 20 else None
    axes.plot(x, y, color=colour_of(number), label=name, marker=marker, markersize=3)


def _stage_bounds(axes: Axes, table: pd.DataFrame) -> None:
    for name, rows in table.groupby("stage", sort=False):
        first = rows["x"].iloc[0]
        if first > 1:
            axes.axvline(first - 0.5, color="#777777", linewidth=0.8, linestyle=":")
        axes.text(
            rows["x"].mean(), 1.01, short(str(name), 14), transform=axes.get_xaxis_transform(), ha="center",
            va="bottom", fontsize=8, color="#555555",
        )  # fmt: skip


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
