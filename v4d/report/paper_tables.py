"""The tables that a config asks for (`tables`): our rows beside published ones, with what tells them apart.

results/<name>/comparison_tables.csv   all of them, a row a row
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from v4d.config.root import RowConfig, TableConfig

NOTE = (
    "Differences are ours minus published. p is McNemar's test against the first row, with the first seed. "
    "Rows are separated from the first one where their intervals do not overlap."
)
ONE_SEED = (
    "Every model was trained once. The gaps between the paper's models are 0.1 to 1.0 points, less than the "
    "noise of one run: `seeds` trains each model several times."
)


def table_frames(
    tables: Sequence[TableConfig], models: pd.DataFrame, significance: pd.DataFrame, results: dict[str, Any]
) -> list[pd.DataFrame]:
    """A frame a table: `table`, `row`, each of its columns with `_published` and `_difference`, `low` and
    `high` of top-1, `p_value` and `against_first`.

    Args:
        models: as `comparison.csv`.
        significance: as `significance.csv`.
        results: metrics.json by model, for the intervals.
    """
    ours = models.set_index("model")
    p_values = {frozenset((row.first, row.second)): row.p_value for row in significance.itertuples()}
    return [
        pd.DataFrame([_cells(table, row, ours, p_values, results) for row in table.rows]) for table in tables
    ]


def _cells(
    table: TableConfig,
    row: RowConfig,
    ours: pd.DataFrame,
    p_values: dict[frozenset[str], float],
    results: dict[str, Any],
) -> dict[str, Any]:
    cells: dict[str, Any] = {"table": table.title, "row": row.label or row.model}
    for column in table.columns:
        cells[column] = ours.at[row.model, column]
        if column == "top1":
            cells["low"], cells["high"] = results[row.model]["top1_interval"]
        published = row.published.get(column)
        known = published is not None and not pd.isna(cells[column])
        cells[f"{column}_published"] = published
        cells[f"{column}_difference"] = cells[column] - published if known else None
    first = table.rows[0].model
    other = row.model != first
    cells["p_value"] = p_values.get(frozenset((first, row.model))) if other else None
    cells["against_first"] = _apart(results[first], results[row.model]) if other else None
    return cells


def _apart(first: dict[str, Any], other: dict[str, Any]) -> str:
    (low, high), (other_low, other_high) = first["top1_interval"], other["top1_interval"]
    return "separated" if high < other_low or other_high < low else "not separated"


def for_readers(frame: pd.DataFrame) -> pd.DataFrame:
    """A table without its title and without empty columns, and the interval as one column."""
    shown = frame.drop(columns=["table", "high"], errors="ignore")
    if "low" in frame:
        texts = [f"{low:.1f} to {high:.1f}" for low, high in zip(frame["low"], frame["high"], strict=True)]
        shown = shown.assign(low=texts).rename(columns={"low": "95 % interval"})
    return shown.dropna(axis=1, how="all")
