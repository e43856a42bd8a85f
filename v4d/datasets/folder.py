"""A user's own videos, files of this machine or of a mounted share."""

import csv
import re
import zlib
from abc import abstractmethod
from collections import Counter
from pathlib import Path
from typing import ClassVar, Literal

from v4d.config import SourceOptions, key
from v4d.datasets.base import Annotations, DataSource
from v4d.errors import V4DError
from v4d.utils.videos import DATASET_SUFFIXES


class FolderOptions(SourceOptions):
    """Your own videos."""

    traceless: ClassVar[bool] = False

    path: str = key(
        "videos",
        "The folder, with <split>/<class>/*.mp4 (class_dirs) or <split>.csv with the columns path,label "
        "(csv).",
    )
    layout: Literal["class_dirs", "csv"] = key("class_dirs", "How labels are given.")


class FileSource(DataSource):
    """Videos that lie in files; a subclass lists them."""

    @abstractmethod
    def files(self, split: str) -> list[tuple[Path, str]]:
        """The videos of a split with their labels, in an order that depends on their names only."""

    def annotations(self) -> Annotations:
        """A row a file; classes are the labels of all splits, in alphabetical order.

        Raises:
            V4DError: a split has no videos, or all splits together have fewer than two classes.
        """
        place = f"dataset.{self.dataset.source} ({self.options})"
        files = {split: self.files(split) for split in self.dataset.splits}
        for split, pairs in files.items():
            if not pairs:
                raise V4DError(f"{place}: no videos in {split}")
        classes = sorted({label for pairs in files.values() for _, label in pairs})
        if len(classes) < 2:
            raise V4DError(f"{place}: one class only, {classes[0]!r}; at least two are needed")
        listed = {}
        for split, pairs in files.items():
            ids = unique_ids([path for path, _ in pairs], split)
            listed[split] = [(name, label, path) for name, (path, label) in zip(ids, pairs, strict=True)]
        return Annotations.listed(self.dataset, listed)

    def count(self, split: str) -> int:
        """Videos of a split."""
        return len(self.files(split))

    def state(self) -> str:
        """A checksum over names, labels, sizes and times of all files."""
        state = 0
        for split in self.dataset.splits:
            for path, label in self.files(split):
                stat = path.stat() if path.exists() else None
                size, changed = (stat.st_size, stat.st_mtime_ns) if stat else (-1, 0)
                line = f"{split}\t{path}\t{label}\t{size}\t{changed}\n"
                state = zlib.crc32(line.encode(errors="surrogateescape"), state)
        return f"{state:08x}"


class Folder(FileSource):
    """A folder with a folder a class, or with a CSV a split."""

    Options = FolderOptions
    options: FolderOptions

    def files(self, split: str) -> list[tuple[Path, str]]:
        """The videos of a split with their labels.

        Raises:
            V4DError: the folder or the CSV is not there, a row of the CSV is not complete, or a path leads
                out of the folder.
        """
        root = Path(self.options.path)
        if not root.is_dir():
            raise V4DError(f"dataset.folder.path: no such folder: {root}")
        if self.options.layout == "csv":
            return _csv_videos(root, split)
        if not (root / split).is_dir():
            raise V4DError(f"dataset.folder.path: no folder {root / split}")
        found = filter(_is_video, _in_class_folders(root / split))
        return [(path, path.parent.name.strip()) for path in found]

    def remarks(self, tables: Annotations) -> list[str]:
        """Also: files that are no videos by their names, and classes that differ in case only."""
        lines = super().remarks(tables)
        if self.options.layout == "class_dirs":
            root = Path(self.options.path)
            found = [path for split in self.dataset.splits for path in _in_class_folders(root / split)]
            others = (path for path in found if not _is_video(path) and path.is_file())
            endings = Counter(path.suffix.lower() or "no ending" for path in others)
            if endings:
                which = ", ".join(f"{count} with {ending}" for ending, count in endings.most_common(5))
                lines.append(f"left out are files that are no videos by their names: {which}")
        spellings: dict[str, list[str]] = {}
        for name in tables.classes:
            spellings.setdefault(name.casefold(), []).append(name)
        alike = [", ".join(names) for names in spellings.values() if len(names) > 1]
        return lines + [f"classes that differ in upper and lower case only: {names}" for names in alike]


def _in_class_folders(split: Path) -> list[Path]:
    """The files in a split's folders, in the order of names; what is hidden is no class and no video."""
    return [
        path
        for folder in sorted(split.iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".")
    ]


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in DATASET_SUFFIXES


def unique_ids(paths: list[Path], split: str) -> list[str]:
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


def _csv_videos(root: Path, split: str) -> list[tuple[Path, str]]:
    table = root / f"{split}.csv"
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not {"path", "label"} <= set(reader.fieldnames or ()):
                raise V4DError(f"{table}: the columns path,label are expected, not {reader.fieldnames}")
            videos = []
            for row in reader:
                label = (row["label"] or "").strip()
                if not row["path"] or not label:
                    raise V4DError(f"{table}, line {reader.line_num}: a row needs a path and a label")
                path = Path(row["path"])
                if not (root / path).resolve().is_relative_to(root.resolve()):
                    raise V4DError(f"{table}, line {reader.line_num}: {path} is outside {root}")
                videos.append((root / path, label))
    except FileNotFoundError as error:
        raise V4DError(f"dataset.folder.path: no such file: {table}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise V4DError(f"{table}: no readable CSV: {error}") from error
    return videos
