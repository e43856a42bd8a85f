"""What all plots share: style, colours, files.

Figures are made without pyplot, which would keep them all in memory and want a display.
"""

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from v4d.errors import V4DError
from v4d.utils.files import atomic_path

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5F5F5F")
"""Okabe and Ito's, told apart by colour-blind readers too."""
DPI = 150
PICTURES = (".png", ".svg", ".pdf", ".jpg", ".jpeg")
STYLE: Any = {
    "font.family": "DejaVu Sans",  # part of matplotlib
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


def check_picture(path: Path) -> None:
    """Refuse a file that a plot cannot be written to, before it is drawn.

    Raises:
        V4DError: says what may be written.
    """
    if path.suffix.lower() not in PICTURES:
        raise V4DError(f"{path}: a plot is written to {' '.join(PICTURES)}")


def save(path: Path, figure: Figure) -> None:
    """Write a figure in one of the formats of `PICTURES`, by the path's ending."""
    with atomic_path(path) as temporary, matplotlib.rc_context(STYLE):
        metadata = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(temporary, dpi=DPI, bbox_inches="tight", pad_inches=0.06, metadata=metadata)


def new_figure(
    width: float, height: float, *, rows: int = 1, columns: int = 1, **layout: Any
) -> tuple[Figure, Any]:
    """A figure of inches and its axes."""
    figure = Figure((width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, gridspec_kw=layout, sharex=rows > 1)


def colour_of(number: int) -> str:
    """The colour of the n-th curve; they repeat behind the last."""
    return COLOURS[number % len(COLOURS)]


def short(text: str, length: int) -> str:
    """A text of at most `length` characters, cut with an ellipsis."""
    return text if len(text) <= length else text[: length - 1] + "…"
