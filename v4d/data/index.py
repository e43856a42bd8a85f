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
    """The content of dataset.json.

    Raises:
        V4DError: it is not there, or damaged.
    """
    path = config.dataset.paths.info
    info = _read_json(path, "v4d manifest")
    if not isinstance(info, dict):
        raise V4DError(f"{path} is damaged: it is no mapping; `v4d manifest` makes it anew")
    return info


def class_names(config: Config) -> list[str]:
    """Class names; the index is the class index.

    Raises:
        V4DError: their file is not there, or damaged.
    """
    path, command = config.dataset.paths.classes, "v4d annotations --only classes"
    names = _read_json(path, command)
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise V4DError(f"{path} is damaged: it is no list of class names; `{command}` makes it anew")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise V4DError(f"{path} is damaged: it names {twice!r} twice; `{command}` makes it anew")
    return names


def read_manifest(config: Config) -> pandas.DataFrame:
    """Every annotated video, and what became of it; the columns are those of `v4d.preprocessing.manifest`.

    Raises:
        V4DError: there is no manifest yet, or it is damaged.
    """
    path = config.dataset.paths.manifest
    if not path.exists():
        raise V4DError(f"no such file: {path}; run `v4d manifest` first")
    return read_table(path)


def records(config: Config, split: str) -> list[VideoRecord]:
    """The usable videos of a split, in the order of their ids.

    Raises:
        V4DError: there is none, or as `read_manifest`.
    """
    manifest = read_manifest(config)
    usable = manifest[(manifest["split"] == split) & (manifest["status"] == "ok")].sort_values("video_id")
    if usable.empty:
        raise V4DError(f"data set {config.dataset.name!r} has no usable video in split {split!r}")
    shards = {part: str(config.dataset.paths.shard(split, part).absolute()) for part in set(usable["part"])}
    return [
        VideoRecord(row.video_id, int(row.class_index), shards[row.part], int(row.num_frames))
        for row in usable.itertuples()
    ]


def _read_json(path: Path, command: str) -> Any:
    try:
        return read_json(path)
    except V4DError as error:
        raise V4DError(f"{error}; `{command}` makes it anew") from error


def read_table(path: Path) -> pandas.DataFrame:
    """A Parquet file that a stage has written.

    Raises:
        V4DError: it is not there, or damaged.
    """
    if not path.exists():
        raise V4DError(f"no such file: {path}; an earlier stage has not run")
    try:
        return pandas.read_parquet(path)
    except (OSError, ValueError) as error:  # Arrow's errors are subclasses of these
        raise V4DError(f"cannot read {path}: {error}; delete it, and Snakemake makes it anew") from error
