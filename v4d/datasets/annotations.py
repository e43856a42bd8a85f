"""The tables of what should exist, written.

data/<dataset>/annotations/classes.json     class names; the index is the class index
data/<dataset>/annotations/<split>.parquet  v4d.datasets.base.COLUMNS, a row a video
"""

import sys
from collections.abc import Collection

from v4d.config import DatasetConfig
from v4d.datasets.base import COLUMNS, limited, open_source
from v4d.utils.files import atomic_path, write_json


def write_annotations(dataset: DatasetConfig, only: Collection[str] | None = None) -> dict[str, int]:
    """Write the tables of a data set; the number of videos in each split.

    Args:
        only: the splits whose tables are written, and `classes`; None for everything.

    Raises:
        V4DError: no videos, fewer than two classes, a label without a name, a table that cannot be read.
    """
    source = open_source(dataset)
    for split in only or ():
        if split != "classes":
            source.check_split(split)
    annotations = source.annotations()
    for line in source.remarks(annotations) if only is None or "classes" in only else ():
        print(f"{dataset.name}: {line}", file=sys.stderr)
    counts = {}
    for split, whole in annotations.tables.items():
        if only is None or split in only:
            table = limited(whole, dataset.limit)
            with atomic_path(dataset.paths.annotations(split)) as temporary:
                table[list(COLUMNS)].to_parquet(temporary, index=False)
            counts[split] = len(table)
    if only is None or "classes" in only:
        write_json(dataset.paths.classes, annotations.classes)
    return counts
