"""What others found, kept as data with its origin: counts of videos, and accuracies.

facts/published_counts.csv   a row a split of a set: annotated, in the public archives, in the authors' copy
facts/published_results.csv  a row a model on a data set
"""

from collections.abc import Iterable
from pathlib import Path

import pandas

FACTS = Path(__file__).parent / "facts"


def published_counts(name: str, splits: Iterable[str]) -> pandas.DataFrame:
    """A row a split, of those that are known, with `annotated`, `in_archives`, `authors_copy`.

    Args:
        name: the set's name in the file.
    """
    table = pandas.read_csv(FACTS / "published_counts.csv")
    table = table[table["set"] == name].set_index("split")
    columns = ["annotated", "in_archives", "authors_copy"]
    return table.loc[[split for split in splits if split in table.index], columns].astype("Int64")


def published_results(dataset: str | None) -> pandas.DataFrame:
    """The published rows of one data set, never of two; none for None."""
    table = pandas.read_csv(FACTS / "published_results.csv")
    return table[table["dataset"] == dataset].reset_index(drop=True)


def published_names() -> list[str]:
    """The data sets of which there are published rows."""
    return sorted(pandas.read_csv(FACTS / "published_results.csv")["dataset"].unique())
