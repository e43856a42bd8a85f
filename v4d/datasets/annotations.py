"""What should exist: the classes, and a row a video.

data/<dataset>/annotations/classes.json    class names; the index is the class index
data/<dataset>/annotations/<split>.parquet  COLUMNS, a row a video
"""

import csv
import re
import zlib
from collections.abc import Collection
from pathlib import Path

import pandas

from v4d.config import DatasetConfig
from v4d.datasets import synthetic
from v4d.errors import V4DError
from v4d.utils.files import atomic_path, write_json

COLUMNS = ("video_id", "label", "class_index", "time_start", "time_end", "split", "part", "path")
VIDEO_SUFFIXES = (".mp4", ".webm", ".avi", ".mkv")
YOUTUBE = "youtube"
"""The part of what no archive of Kinetics holds, where dataset.kinetics.youtube is on."""


def write_annotations(
    dataset: DatasetConfig, folder: Path, only: Collection[str] | None = None
) -> dict[str, int]:
    """Write the tables of a data set; the number of videos in each split.

    Args:
        only: the splits whose tables are written, and `classes`; None for everything.

    Raises:
        V4DError: no videos, fewer than two classes, a label without a name, a table that cannot be read.
    """
    for split in only or ():
        if split not in (*dataset.splits, "classes"):
            raise V4DError(f"no split {split!r}; dataset.splits has {', '.join(dataset.splits)}")
    if dataset.source == "kinetics":
        from v4d.datasets.kinetics import kinetics_annotations

        classes, tables = kinetics_annotations(dataset)
    elif dataset.source == "folder":
        classes, tables = folder_annotations(dataset)
    else:
        classes, tables = synthetic_annotations(dataset)
    tables = {split: _limited(table, dataset.limit) for split, table in tables.items()}
    for split, table in tables.items():
        if only is not None and split not in only:
            continue
        with atomic_path(folder / f"{split}.parquet") as temporary:
            table[list(COLUMNS)].to_parquet(temporary, index=False)
    if only is None or "classes" in only:
        write_json(folder / "classes.json", classes)
    return {split: len(table) for split, table in tables.items() if only is None or split in only}


def part_names(dataset: DatasetConfig, split: str) -> list[str]:
    """The parts of a split, known before anything has run: the workflow's jobs are made of them."""
    if dataset.source == "kinetics":
        return archive_names(dataset, split) + ([YOUTUBE] if dataset.kinetics.youtube else [])
    if dataset.source == "folder":
        count = len(folder_videos(dataset, split))
    else:
        count = dataset.synthetic.videos[split]
    return [f"part_{n}" for n in range(max(1, -(-count // dataset.part_size)))]


def archive_names(dataset: DatasetConfig, split: str) -> list[str]:
    """The parts of a split of Kinetics that the public archives hold."""
    return [f"part_{n}" for n in range(dataset.kinetics.parts[split])]


def missing_reason(dataset: DatasetConfig, split: str) -> str:
    """Why an annotated video may be nowhere: no list says which archive should have held it."""
    names = [f"{split}/{part}" for part in part_names(dataset, split) if dataset.given_up(split, part)]
    return f"in no archive (given up: {', '.join(names)})" if names else "in no archive"


def source_state(dataset: DatasetConfig) -> str:
    """Changes when a user's folder does, so that the workflow sees new, changed and deleted videos."""
    if dataset.source != "folder":
        return ""
    state = 0
    for split in dataset.splits:
        for path, label in folder_videos(dataset, split):
            stat = path.stat() if path.exists() else None
            size, changed = (stat.st_size, stat.st_mtime_ns) if stat else (-1, 0)
            line = f"{split}\t{path}\t{label}\t{size}\t{changed}\n"
            state = zlib.crc32(line.encode(errors="surrogateescape"), state)
    return f"{state:08x}"


def synthetic_annotations(dataset: DatasetConfig) -> tuple[list[str], dict[str, pandas.DataFrame]]:
    classes = list(synthetic.CLASSES)
    tables = {}
    for split in dataset.splits:
        videos = synthetic.video_ids(dataset.synthetic, split)
        rows = [(video_id, classes[index], index, "") for video_id, index in videos]
        tables[split] = _table(rows, split, dataset.part_size)
    return classes, tables


def folder_annotations(dataset: DatasetConfig) -> tuple[list[str], dict[str, pandas.DataFrame]]:
    """A user's own videos; classes are the labels of all splits, in alphabetical order."""
    videos = {split: folder_videos(dataset, split) for split in dataset.splits}
    classes = sorted({label for pairs in videos.values() for _, label in pairs})
    root = dataset.folder.path
    for split, pairs in videos.items():
        if not pairs:
            raise V4DError(f"dataset.folder.path: no videos in {root}/{split} ({', '.join(VIDEO_SUFFIXES)})")
    if len(classes) < 2:
        raise V4DError(f"dataset.folder.path: {root} has one class, {classes[0]!r}; at least two are needed")
    index = {name: number for number, name in enumerate(classes)}
    tables = {}
    for split, pairs in videos.items():
        ids = _unique_ids([path for path, _ in pairs], split)
        rows = [(i, label, index[label], str(path)) for i, (path, label) in zip(ids, pairs, strict=True)]
        tables[split] = _table(rows, split, dataset.part_size)
    return classes, tables


def folder_videos(dataset: DatasetConfig, split: str) -> list[tuple[Path, str]]:
    """The videos of a split with their labels, in an order that depends on their names only."""
    root = Path(dataset.folder.path)
    if not root.is_dir():
        raise V4DError(f"dataset.folder.path: no such folder: {root}")
    if dataset.folder.layout == "csv":
        return _csv_videos(root, split)
    if not (root / split).is_dir():
        raise V4DError(f"dataset.folder.path: no folder {root / split}")
    found = [
        (path, folder.name)
        for folder in sorted((root / split).iterdir())
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith(".")
    ]
    return found


def _csv_videos(root: Path, split: str) -> list[tuple[Path, str]]:
    table = root / f"{split}.csv"
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not {"path", "label"} <= set(reader.fieldnames or ()):
                raise V4DError(f"{table}: the columns path,label are expected, not {reader.fieldnames}")
            videos = []
            for row in reader:
                if not row["path"] or not row["label"]:
                    raise V4DError(f"{table}, line {reader.line_num}: a row needs a path and a label")
                path = Path(row["path"])
                if not (root / path).resolve().is_relative_to(root.resolve()):
                    raise V4DError(f"{table}, line {reader.line_num}: {path} is outside {root}")
                videos.append((root / path, row["label"]))
    except FileNotFoundError as error:
        raise V4DError(f"dataset.folder.path: no such file: {table}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise V4DError(f"{table}: no readable CSV: {error}") from error
    return videos


def _unique_ids(paths: list[Path], split: str) -> list[str]:
    """Ids of letters, digits, `_` and `-` from class and file name; the same name twice gets a number."""
    seen: dict[str, int] = {}
    ids = []
    for path in paths:
        stem = re.sub(r"[^A-Za-z0-9_-]+", "_", f"{path.parent.name}-{path.stem}") or "video"
        stem = stem[:120]
        seen[stem] = seen.get(stem, 0) + 1
        ids.append(stem if seen[stem] == 1 else f"{stem}-{seen[stem]}")
    if len(set(ids)) < len(ids):  # a numbered id met a file of that very name
        ids = [f"{split}-{number:07d}" for number in range(len(ids))]
    return ids


def _table(rows: list[tuple[str, str, int, str]], split: str, part_size: int) -> pandas.DataFrame:
    """Rows of (video_id, label, class_index, path) with their parts.

    Parts are dealt in the order of the id's checksum, so that a part holds all classes: training
    may shuffle within a window of shards, and must not see one class at a time.
    """
    table = pandas.DataFrame(rows, columns=["video_id", "label", "class_index", "path"])
    if not table["path"].any():
        order = range(len(rows))  # the synthetic set's archives hold ranges of ids, classes in turn
    else:
        order = sorted(range(len(rows)), key=lambda n: (zlib.crc32(rows[n][0].encode()), rows[n][0]))
    parts = {row: f"part_{place // part_size}" for place, row in enumerate(order)}
    table["part"] = [parts[n] for n in range(len(rows))]
    table["split"] = split
    table["time_start"] = table["time_end"] = float("nan")
    return table


def _limited(table: pandas.DataFrame, limit: int | None) -> pandas.DataFrame:
    """At most `limit` videos a class, the first ones."""
    return table if limit is None else table.groupby("class_index", sort=False).head(limit)
