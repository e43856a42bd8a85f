"""Ledgers: what became of each video of a part, a row a video.

data/<dataset>/clips/<split>/<part>.parquet   LEDGER_COLUMNS
data/<dataset>/frames/<split>/<part>.parquet  the same rows, with what the frames stage found
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet

from v4d.errors import V4DError
from v4d.utils.text import some_of

LEDGER_COLUMNS = {
    "video_id": "str",
    "label": "str",
    "class_index": "int64",
    "split": "str",
    "part": "str",
    "status": "str",
    "reason": "str",
    "num_frames": "int64",
    "fps": "float64",
    "width": "int64",
    "height": "int64",
    "bytes": "int64",
    "source_width": "int64",
    "source_height": "int64",
    "seconds": "float64",
    "replaced": "bool",
    "annotated_seconds": "float64",  # NaN where no times are annotated
    "warning": "str",  # what is odd about a usable clip
}


def read_ledger(path: Path, what: str = "ledger") -> pyarrow.Table:
    """A ledger with every column that it has, and their types as they were written.

    Args:
        what: how a message names the file.

    Raises:
        V4DError: the file is not there, or damaged.
    """
    try:
        return pyarrow.parquet.read_table(path)
    except FileNotFoundError as error:
        raise V4DError(f"cannot read {what} {path}: no such file") from error
    except (OSError, ValueError, pyarrow.ArrowException) as error:  # ValueError: a name that is no UTF-8 now
        raise V4DError(f"cannot read {what} {path}: {error}") from error


def check_bad_share(part: str, rows: Collection[Mapping[Any, Any]], allowed: float) -> None:
    """Refuse a part with too many bad videos: something other than the videos is wrong.

    Args:
        part: its name as SPLIT/PART.
        rows: `video_id`, `status` and `reason` of each of its videos.
        allowed: the share that may be bad.

    Raises:
        V4DError: the message has the first three with what is wrong with them.
    """
    bad = [f"{row['video_id']}: {row['status']}: {row['reason']}" for row in rows if row["status"] != "ok"]
    if len(bad) > allowed * len(rows):
        raise V4DError(
            f"{part}: {len(bad)} of {len(rows)} videos are bad ({len(bad) / len(rows):.0%}), more than "
            f"dataset.max_bad_share {100 * allowed:.3g}% allows: {some_of(bad, sep='; ')}"
        )
