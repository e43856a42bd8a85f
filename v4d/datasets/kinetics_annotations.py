"""The annotations of Kinetics: class names and a table a split, from the public CSVs.

{base_url}/{version}/annotations/{split}.csv    label,youtube_id,time_start,time_end,split[,is_cc]
{mini_url}/{split}_ytid_list.txt                an id of Mini-Kinetics a line
"""

import csv
import functools
import re
import sys
from pathlib import Path

import pandas

from v4d.config import DatasetConfig
from v4d.datasets.base import Annotations, labels_of
from v4d.datasets.download.fetch import Check, fetch
from v4d.datasets.download.http import RetryPolicy
from v4d.datasets.kinetics_archives import address
from v4d.datasets.kinetics_versions import Version
from v4d.datasets.lockfile import LockFile
from v4d.errors import V4DError
from v4d.utils.files import file_sha256

QUICK = RetryPolicy(attempts=8, cap=60.0)
"""For the small files that somebody may be waiting for: about two minutes."""
LARGEST = 64 << 20
"""Bytes of a table or list, which pass through memory; the longest known has 30 MB."""
_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")
"""YouTube's ids have 11 letters; a mirror may have others, which must fit into names of files (255 bytes)."""
_COLUMNS = ("label", "youtube_id", "time_start", "time_end")


def kinetics_annotations(dataset: DatasetConfig, patience: RetryPolicy = QUICK) -> Annotations:
    """Fetch and read the annotations: class names in alphabetical order, and a table a split.

    Of an id that is annotated twice in a split the first row counts; an id of a test or validation split is
    taken out of the training split. Both are said on stderr.

    Raises:
        V4DError: a file cannot be had or read, the classes are not those of the version, a list is not
            the known one.
    """
    options = dataset.options
    whole, taken = options.whole, options.edition
    tables = {}
    for split in dataset.splits:
        url = address(dataset, "annotations", f"{split}.csv")
        table = _read_csv(_download(dataset, url, f"{split}.csv", patience, _read_csv))
        before = "rows of ids that were annotated before"
        tables[split] = _without(table, table["video_id"].duplicated(), split, before)
    classes = labels_of(tables)
    _check_classes(classes, options.class_count, whole)
    if taken is not whole:
        tables = {split: _subset(dataset, split, table, patience) for split, table in tables.items()}
        classes = labels_of(tables)
        if options.class_count == whole.classes and len(classes) != taken.classes:
            raise V4DError(f"{taken.title} has {len(classes)} classes by these annotations and lists")
    if "train" in tables:  # nothing may be trained and tested on
        train, tested = tables["train"], [table for split, table in tables.items() if split != "train"]
        shared = train["video_id"].isin({name for table in tested for name in table["video_id"]})
        tables["train"] = _without(train, shared, "train", "ids that are in another split as well")
    return Annotations.indexed(classes, tables)


def _download(dataset: DatasetConfig, url: str, name: str, patience: RetryPolicy, check: Check) -> Path:
    """Fetch a small file of the annotations once; later runs use what lies there."""
    path = dataset.paths.annotation_source(name)
    lock = LockFile(dataset.paths.lock)
    entry = lock.get(f"annotations/{name}")
    if entry is None or entry.url != url or not path.exists() or file_sha256(path) != entry.sha256:
        accept = functools.partial(lock.record, f"annotations/{name}")
        fetch(url, path, patience=patience, limit=LARGEST, check=check, accept=accept)
    return path


def _read_csv(path: Path) -> pandas.DataFrame:
    """The label, id and span of all rows; no list says which archive holds a video, so `part` is unknown.

    Read as text: an id can look like a number (`1e5-...`) or like a missing value.
    """
    rows = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = header
            absent = [name for name in _COLUMNS if name not in header]
            if absent:
                raise V4DError(f"{path}: no column {absent[0]!r} among {','.join(header)[:80]!r}")
            for row in reader:
                rows.append(_parse_row(row, f"{path}, line {reader.line_num}"))
    except (UnicodeDecodeError, csv.Error) as error:
        raise V4DError(f"{path} is no CSV: {error}") from error
    if not rows:
        raise V4DError(f"{path} holds no videos")
    table = pandas.DataFrame(rows, columns=["label", "video_id", "time_start", "time_end"])
    return table.assign(part="", path="")


def _parse_row(row: dict[str, str], where: str) -> tuple[str, str, float, float]:
    label, video_id = (row["label"] or "").strip(), (row["youtube_id"] or "").strip()
    if not label:
        raise V4DError(f"{where}: no label")
    if not _ID.fullmatch(video_id):
        raise V4DError(f"{where}: {video_id!r} is no YouTube id")
    try:
        return label, video_id, float(row["time_start"]), float(row["time_end"])
    except (TypeError, ValueError) as error:
        raise V4DError(f"{where}: time_start and time_end are no numbers") from error


def _without(table: pandas.DataFrame, odd: "pandas.Series[bool]", split: str, what: str) -> pandas.DataFrame:
    """The table without its odd rows, which are said on stderr."""
    if odd.any():
        first = table.loc[odd, "video_id"].iloc[0]
        _say(f"{split}: {odd.sum()} {what} are left out, e.g. {first}")
    return table[~odd]


def _check_classes(classes: list[str], count: int | None, whole: Version) -> None:
    """Hold the labels against the known names, or against a mirror's number of classes."""
    if count == whole.classes and classes != whole.released_classes():
        odd = sorted(set(classes) ^ set(whole.released_classes()))
        raise V4DError(
            f"the annotations' classes are not those of {whole.title}: {len(odd)} differ, e.g. {odd[0]!r}"
        )
    if count is not None and len(classes) != count:
        raise V4DError(
            f"the annotations have {len(classes)} classes, dataset.kinetics.class_count is {count}"
        )


def _subset(
    dataset: DatasetConfig, split: str, table: pandas.DataFrame, patience: RetryPolicy
) -> pandas.DataFrame:
    """The rows of a split that the subset's list names."""
    options, splits = dataset.options, dataset.options.edition.splits
    if split not in splits:
        raise V4DError(f"dataset.splits: subset {options.subset} has {' and '.join(splits)}, no {split!r}")
    name = f"{split}_ytid_list.txt"
    expected = (options.mini_sha256 or {}).get(split)

    def check(path: Path) -> None:
        if expected is not None and file_sha256(path) != expected:
            raise V4DError(f"{path}: its sha256 is not dataset.kinetics.mini_sha256.{split}")

    path = _download(dataset, f"{options.mini_url.rstrip('/')}/{name}", name, patience, check)
    check(path)
    ids = set(path.read_text(encoding="utf-8").split())
    chosen = table[table["video_id"].isin(ids)]
    if chosen.empty:
        raise V4DError(f"none of the {len(ids)} ids in {path} is annotated in {split}")
    absent = len(ids) - len(chosen)
    if absent:
        _say(f"{split}: {absent} of the {len(ids)} ids in {name} are not annotated, and left out")
    return chosen


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
