"""Kinetics-400 and Mini-Kinetics-200: addresses, annotations, published counts.

The public layout, below `base_url` (a mirror keeps it):

    400/annotations/{split}.csv                 label,youtube_id,time_start,time_end,split[,is_cc]
    400/{split}/k400_{split}_path.txt           the address of an archive a line
    400/{split}/part_{i}.tar.gz                 members {youtube_id}_{time_start:06d}_{time_end:06d}.mp4
    400/replacement_for_corrupted_k400.tgz      replacements for corrupted training videos
"""

import csv
import hashlib
import json
import re
import sys
from importlib import resources
from pathlib import Path

import pandas

from v4d.config import DatasetConfig
from v4d.datasets.download.fetch import Check, fetch
from v4d.datasets.download.http import RetryPolicy
from v4d.datasets.kinetics_options import KineticsOptions
from v4d.datasets.lockfile import LockFile
from v4d.errors import V4DError

QUICK = RetryPolicy(attempts=8, cap=60.0)
"""For the small files that somebody may be waiting for: about two minutes."""
REPLACED_SPLIT = "train"
"""The split whose corrupted videos have replacements."""
_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")
"""YouTube's ids have 11 letters; a mirror may have others, which must fit into names of files (255 bytes)."""
_COLUMNS = ("label", "youtube_id", "time_start", "time_end")


def class_names() -> list[str]:
    """The 400 class names of Kinetics-400 in alphabetical order: the index is the class index."""
    return _data("kinetics400_classes.json")["classes"]


def released_mini_order() -> list[str]:
    """The 200 class names of Mini-Kinetics in the order of the authors' released models' outputs."""
    return _data("mini_kinetics200_released_order.json")["classes"]


def published_counts(dataset: DatasetConfig) -> pandas.DataFrame | None:
    """What others found: a row a split with `annotated`, `in_archives`, `authors_copy` (videos, NA unknown).

    None where nothing is published that could be compared: other sources, trial runs, miniature mirrors.
    """
    if dataset.source != "kinetics" or dataset.limit is not None or dataset.kinetics.class_count != 400:
        return None
    text = resources.files("v4d.datasets") / "facts" / "published_counts.csv"
    with text.open() as file:
        table = pandas.read_csv(file)
    table = table[table["set"] == (dataset.kinetics.subset or "kinetics400")].set_index("split")
    columns = ["annotated", "in_archives", "authors_copy"]
    return table.loc[[s for s in dataset.splits if s in table.index], columns].astype("Int64")


def archive_url(kinetics: KineticsOptions, split: str, part: str) -> str:
    return f"{kinetics.base_url.rstrip('/')}/{kinetics.version}/{split}/{part}.tar.gz"


def archive_list_url(kinetics: KineticsOptions, split: str) -> str:
    return f"{kinetics.base_url.rstrip('/')}/{kinetics.version}/{split}/k{kinetics.version}_{split}_path.txt"


def replacements_url(kinetics: KineticsOptions) -> str:
    name = f"replacement_for_corrupted_k{kinetics.version}.tgz"
    return f"{kinetics.base_url.rstrip('/')}/{kinetics.version}/{name}"


def replacements_path(dataset: DatasetConfig, split: str) -> Path | None:
    """Where the replacements for a split lie; None where there are none or they are not wanted."""
    wanted = dataset.source == "kinetics" and dataset.kinetics.use_replacements and split == REPLACED_SPLIT
    return dataset.root / "archives" / split / "replacements.tar" if wanted else None


def kinetics_annotations(
    dataset: DatasetConfig, patience: RetryPolicy = QUICK
) -> tuple[list[str], dict[str, pandas.DataFrame]]:
    """Fetch and read the annotations: class names in alphabetical order, and a table a split.

    Of an id that is annotated twice in a split the first row counts; an id of a test or validation split is
    taken out of the training split. Both are said on stderr.

    Raises:
        V4DError: a file cannot be had or read, the classes are not those of Kinetics-400, a list is not
            the known one.
    """
    kinetics = dataset.kinetics
    tables = {}
    for split in dataset.splits:
        url = f"{kinetics.base_url.rstrip('/')}/{kinetics.version}/annotations/{split}.csv"
        path = _download(dataset, url, f"{split}.csv", patience, _read_csv)
        tables[split] = _once(_read_csv(path), split)
    classes = sorted({label for table in tables.values() for label in table["label"]})
    _check_classes(classes, kinetics.class_count)
    if kinetics.subset is not None:
        tables = {split: _subset(dataset, split, table, patience) for split, table in tables.items()}
        classes = sorted({label for table in tables.values() for label in table["label"]})
        if kinetics.class_count == 400 and len(classes) != 200:
            raise V4DError(f"Mini-Kinetics-200 has {len(classes)} classes by these annotations and lists")
    tables = _separated(tables)
    index = {name: number for number, name in enumerate(classes)}
    return classes, {split: _layout(table, split, index) for split, table in tables.items()}


def _download(dataset: DatasetConfig, url: str, name: str, patience: RetryPolicy, check: Check) -> Path:
    """Fetch a small file of the annotations once; later runs use what lies there."""
    path = dataset.root / "annotations" / "source" / name
    lock = LockFile(dataset.root)
    entry = lock.get(f"annotations/{name}")
    if entry is None or entry.url != url or not path.exists() or _sha256(path) != entry.sha256:
        fetch(
            url,
            path,
            patience=patience,
            check=check,
            accept=lambda new: lock.record(f"annotations/{name}", new),
        )
    return path


def _read_csv(path: Path) -> pandas.DataFrame:
    """A table of the columns label, youtube_id, time_start, time_end, all rows.

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
    return pandas.DataFrame(rows, columns=["label", "video_id", "time_start", "time_end"])


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


def _once(table: pandas.DataFrame, split: str) -> pandas.DataFrame:
    twice = table["video_id"].duplicated()
    if twice.any():
        first = table.loc[twice, "video_id"].iloc[0]
        _say(f"{split}: {twice.sum()} rows of ids that were annotated before are left out, e.g. {first}")
    return table[~twice]


def _separated(tables: dict[str, pandas.DataFrame]) -> dict[str, pandas.DataFrame]:
    """Take ids of other splits out of the training split: nothing may be trained and tested on."""
    if "train" not in tables:
        return tables
    train = tables["train"]
    others = {name for split, table in tables.items() if split != "train" for name in table["video_id"]}
    shared = train["video_id"].isin(others)
    if shared.any():
        first = train.loc[shared, "video_id"].iloc[0]
        _say(f"train: {shared.sum()} ids that are in another split as well are left out, e.g. {first}")
    return tables | {"train": train[~shared]}


def _check_classes(classes: list[str], count: int | None) -> None:
    """Hold the labels against the 400 known names, or against a mirror's number of classes."""
    if count == 400 and classes != class_names():
        odd = sorted(set(classes) ^ set(class_names()))
        raise V4DError(
            f"the annotations' classes are not those of Kinetics-400: {len(odd)} differ, e.g. {odd[0]!r}"
        )
    if count is not None and len(classes) != count:
        raise V4DError(
            f"the annotations have {len(classes)} classes, dataset.kinetics.class_count is {count}"
        )


def _subset(
    dataset: DatasetConfig, split: str, table: pandas.DataFrame, patience: RetryPolicy
) -> pandas.DataFrame:
    """The rows of a split that Mini-Kinetics-200's list names."""
    kinetics = dataset.kinetics
    if split not in ("train", "val"):
        raise V4DError(f"dataset.splits: subset mini200 has train and val, no {split!r}")
    name = f"{split}_ytid_list.txt"
    expected = (kinetics.mini_sha256 or {}).get(split)

    def check(path: Path) -> None:
        if expected is not None and _sha256(path) != expected:
            raise V4DError(f"{path}: its sha256 is not dataset.kinetics.mini_sha256.{split}")

    path = _download(dataset, f"{kinetics.mini_url.rstrip('/')}/{name}", name, patience, check)
    check(path)
    ids = set(path.read_text(encoding="utf-8").split())
    chosen = table[table["video_id"].isin(ids)]
    if chosen.empty:
        raise V4DError(f"none of the {len(ids)} ids in {path} is annotated in {split}")
    absent = len(ids) - len(chosen)
    if absent:
        _say(f"{split}: {absent} of the {len(ids)} ids in {name} are not annotated, and left out")
    return chosen


def _layout(table: pandas.DataFrame, split: str, index: dict[str, int]) -> pandas.DataFrame:
    """The annotations' columns; no list says which archive holds a video, so `part` is unknown."""
    numbers = table["label"].map(index)
    table = table.assign(class_index=numbers, split=split, part="", path="")
    columns = ["video_id", "label", "class_index", "time_start", "time_end", "split", "part", "path"]
    return table[columns].reset_index(drop=True)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _data(name: str) -> dict:
    return json.loads((resources.files("v4d.datasets") / "facts" / name).read_text(encoding="utf-8"))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
