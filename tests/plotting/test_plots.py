"""Plots of a test, on any number of classes."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from v4d.plotting import plots
from v4d.plotting.style import save


@pytest.mark.parametrize("count", [1, 24, 25, 400])
def test_plots_of_few_and_of_many_classes(tmp_path, count):
    names = [f"class {number}" for number in range(count)]
    matrix = pd.DataFrame(10 * np.eye(count, dtype=int), columns=names)
    matrix.insert(0, "label", names)
    table = pd.DataFrame({"label": names, "videos": 10, "top1": np.linspace(5, 95, count)})
    confusion, per_class = plots.confusion(matrix), plots.per_class(table)
    for name, figure in {"confusion": confusion, "per_class": per_class}.items():
        save(tmp_path / f"{name}.png", figure)
        assert max(imread(tmp_path / f"{name}.png").shape[:2]) < 2000  # pixels, on any number of classes
    named = [text.get_text() for axes in per_class.axes for text in axes.get_yticklabels()]
    wanted = names if count <= 24 else [*names[-3:], *names[:3]]
    assert set(wanted) <= set(named)
    assert len(confusion.axes[0].get_xticklabels()) == count or count > 24
