"""What a finished data set holds: its usable videos, class names, and dataset.json.

Written by `v4d.preprocessing.manifest`; training, testing and reports read it here.
"""

from pathlib import Path
from typing import Any

import pandas

from v4d.config import Config
from v4d.data.dataset import VideoRecord
from v4d.errors import V4DError
from v4d.utils.files import read_json


def dataset_info(config: Config) -> dict[str, Any]:
    """The content of dataset.json."""
    return read_json(config.dataset.root / "dataset.json")


def class_names(config: Config) -> list[str]:
    """Class names; the index is the class index."""
    return read_json(config.dataset.root / "annotations" / "classes.json")


def read_manifest(config: Config) -> pandas.DataFrame:
    path = config.dataset.root / "manifest.parquet"
    if not path.exists():
        raise V4DError(f"no such file: {path}; run `v4d manifest` first")
    return read_table(path)


def records(config: Config, split: str) -> list[VideoRecord]:
    """The usable videos of a split, in the order of their ids."""
    manifest = read_manifest(config)
    usable = manifest[(manifest["split"] == split) & (manifest["status"] == "ok")].sort_values("video_id")
    if usable.empty:
        raise V4DError(f"data set {config.dataset.name!r} has no usable video in split {split!r}")
    folder = (config.dataset.root / "frames" / split).absolute()
    return [
        VideoRecord(row.video_id, int(row.class_index), str(folder / f"{row.part}.lmdb"), int(row.num_frames))
        for row in usable.itertuples()
    ]


def read_table(path: Path) -> pandas.DataFrame:
    if not path.exists():
        raise V4DError(f"no such file: {path}; an earlier stage has not run")
    try:
        return pandas.read_parquet(path)
    except (OSError, ValueError) as error:  # Arrow's own errors are of these two kinds
        raise V4DError(f"cannot read {path}: {error}; delete it, and Snakemake makes it anew") from error
