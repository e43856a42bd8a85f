"""Per-video scores on disk: Parquet, a row a video, streamed piece by piece.

Columns of `predictions.parquet`: `video_id`, `label`, `class_index`, `part`, then for the normal order

    predicted_index, predicted_label   the best class
    confidence                         its probability, 0 to 1
    label_rank                         how many classes come before the label; 0 where it is right
    probabilities                      a list with the probability of every class

and the same once more for every other order, with its name behind: `predicted_index_units_reversed`.
With `_{n}_units` behind, `predicted_index`, `confidence` and `label_rank` of one crop and `n` units.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from v4d.data.dataset import VideoRecord
from v4d.errors import V4DError
from v4d.evaluation.metrics import Outcomes, outcomes
from v4d.utils.files import atomic_path

Scores = np.ndarray
"""Probabilities `[V, K]` of some videos."""


def suffix(order: str) -> str:
    """What stands behind the column names of an order."""
    return "" if order == "normal" else f"_{order}"


def units_suffix(count: int) -> str:
    """What stands behind the column names of a number of units."""
    return f"_{count}_units"


def predictions_table(
    videos: Sequence[VideoRecord], classes: list[str], scores: dict[str, Scores], by_units: dict[int, Scores]
) -> pa.Table:
    """A table of some videos, from their scores by order and by number of units."""
    labels = np.asarray([video.class_index for video in videos])
    columns: dict[str, pa.Array] = {
        "video_id": pa.array([video.video_id for video in videos], pa.string()),
        "label": pa.array([classes[label] for label in labels], pa.string()),
        "class_index": pa.array(labels, pa.int32()),
        "part": pa.array([Path(video.shard).stem for video in videos], pa.string()),
    }
    for order, probabilities in scores.items():
        end = suffix(order)
        results = outcomes(probabilities, labels)
        columns |= _outcome_columns(results, end)
        columns[f"predicted_label{end}"] = pa.array([classes[i] for i in results.predicted], pa.string())
        flat = pa.array(np.ascontiguousarray(probabilities, dtype=np.float32).reshape(-1))
        offsets = np.arange(len(labels) + 1, dtype=np.int32) * len(classes)
        columns[f"probabilities{end}"] = pa.ListArray.from_arrays(pa.array(offsets), flat)
    for count, probabilities in by_units.items():
        columns |= _outcome_columns(outcomes(probabilities, labels), units_suffix(count))
    return pa.table(columns)


def _outcome_columns(results: Outcomes, end: str) -> dict[str, pa.Array]:
    return {
        f"predicted_index{end}": pa.array(results.predicted, pa.int32()),
        f"confidence{end}": pa.array(results.confidence, pa.float32()),
        f"label_rank{end}": pa.array(results.ranks, pa.int32()),
    }


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table as Parquet; whole or not at all."""
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def merge(pieces: Iterable[Path], path: Path) -> int:
    """Join pieces into one file, one in memory at a time; return the number of rows."""
    rows = 0
    with atomic_path(path) as temporary:
        writer = None
        for piece in pieces:
            table = pq.read_table(piece)
            writer = writer or pq.ParquetWriter(temporary, table.schema, compression="zstd")
            writer.write_table(table)
            rows += table.num_rows
        if writer is None:
            raise V4DError(f"{path}: there is no video to write")
        writer.close()
    return rows


def read_columns(path: Path, columns: Sequence[str], **options: Any) -> pa.Table:
    """Some columns of predictions; `options` are those of `pyarrow.parquet.read_table`.

    Raises:
        V4DError: no such file, or a damaged one.
    """
    if not path.is_file():
        raise V4DError(f"no such file: {path}")
    try:
        return pq.read_table(path, columns=list(columns), **options)
    except (pa.ArrowException, OSError) as error:
        raise V4DError(f"{path} is damaged; test the model again: {str(error).splitlines()[0]}") from error


def read_outcomes(path: Path, end: str = "") -> Outcomes:
    """The outcomes under a suffix, without reading the probabilities."""
    names = ["class_index", f"predicted_index{end}", f"label_rank{end}", f"confidence{end}"]
    table = read_columns(path, names)
    return Outcomes(*(table[name].to_numpy().astype(kind) for name, kind in zip(names, "iiif", strict=True)))


def orders_in(path: Path) -> list[str]:
    """The orders that a file has predictions for, normal first."""
    names = [name for name in pq.read_schema(path).names if name.startswith("probabilities")]
    return [name.removeprefix("probabilities_") if "_" in name else "normal" for name in names]


def unit_counts_in(path: Path) -> list[int]:
    """The numbers of units that a file has outcomes for, ascending."""
    found = (re.fullmatch(r"label_rank_(\d+)_units", name) for name in pq.read_schema(path).names)
    return sorted(int(match[1]) for match in found if match)
