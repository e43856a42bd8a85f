"""Published accuracies, kept as data (`facts/published_results.csv`) with their data set and origin."""

from pathlib import Path

import pandas as pd

from v4d.config import Config

PUBLISHED_FILE = Path(__file__).parent / "facts" / "published_results.csv"
_KINETICS = {None: ("Kinetics-400", 400), "mini200": ("Mini-Kinetics-200", 200)}


def published_dataset(config: Config, class_count: int) -> str | None:
    """The name under which others publish results on a config's data set; None where nobody can have.

    A part of Kinetics (a trial run, a mirror with fewer classes) is another data set, and so is a split other
    than the validation split, which they all are about.
    """
    dataset = config.dataset
    if dataset.source != "kinetics" or dataset.limit is not None or config.testing.split != "val":
        return None
    name, classes = _KINETICS[dataset.kinetics.subset]
    return name if class_count == classes else None


def published_results(dataset: str | None) -> pd.DataFrame:
    """The published rows of one data set, never of two; none for None."""
    table = pd.read_csv(PUBLISHED_FILE)
    return table[table["dataset"] == dataset].reset_index(drop=True)
