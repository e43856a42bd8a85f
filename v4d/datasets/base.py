"""What a data set says of itself: `DataSource`, a class for each value of `dataset.source`.

Other rooms ask here and know no data set by name. A set of one's own is a subclass in a module that the
config's `plugins` names; `tests/datasets/test_plugin.py` has one of files and one of archives:

    class FlatOptions(SourceOptions):                        # dataset.flat
        path: str = key("flat", "The folder.")

    class Flat(DataSource):
        Options = FlatOptions

        def annotations(self) -> Annotations:
            return Annotations.listed(self.dataset, {"train": [("some_id", "some label", "flat/a.mp4")]})

    SOURCES["flat"] = Flat
"""

import dataclasses
import functools
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from v4d.config import DatasetConfig, SourceOptions, plain, settings
from v4d.config.registry import SOURCES
from v4d.datasets.archives import ArchiveError, Member, read_members
from v4d.errors import V4DError
from v4d.utils.cost import StageCost
from v4d.utils.text import some_of

if TYPE_CHECKING:
    import pandas

COLUMNS = ("video_id", "label", "class_index", "time_start", "time_end", "split", "part", "path")
"""A table of annotations, a row a video. `time_start` and `time_end` (seconds) are NaN where the file is the
clip, `part` is "" where no list says which archive holds a video, `path` is "" where archives hold them."""

Listed = Mapping[str, Iterable[tuple[str, str, str | Path]]]
"""The videos of each split as (id, label, path)."""


@dataclass(frozen=True)
class SourceVideo:
    """A video to transcode: a path, bytes, a member of an archive, or what is wrong with it."""

    video_id: str
    source: Path | bytes | Member | None
    """A member is read when its turn comes, before the next video is asked for."""
    replaced: bool = False
    """Whether another file takes the place of the one that was delivered."""
    status: str = ""
    """Without a source: `missing` or `refused`, and `reason` says why."""
    reason: str = ""


@dataclass(frozen=True)
class Annotations:
    """What should exist."""

    classes: list[str]
    """Class names; the index is the class index."""
    tables: dict[str, "pandas.DataFrame"]
    """For each split a table with `COLUMNS`."""

    @classmethod
    def listed(cls, dataset: DatasetConfig, videos: Listed, *, mixed: bool = True) -> "Annotations":
        """The annotations of videos that a list gives for each split as (id, label, path).

        The classes are the labels of all splits in alphabetical order.

        Args:
            videos: the path is "" where archives hold the videos.
            mixed: deal the videos to parts by a checksum of their ids, so that a part holds all classes:
                training may shuffle within a window of shards, and must not see one class at a time. Off, a
                part holds videos that follow one another.
        """
        import pandas

        tables = {}
        for split, rows in videos.items():
            table = pandas.DataFrame(list(rows), columns=["video_id", "label", "path"])
            order = list(table.index)
            if mixed:
                checksums = [(zlib.crc32(name.encode()), name) for name in table["video_id"]]
                order.sort(key=checksums.__getitem__)
            parts = [f"part_{place // dataset.part_size}" for place in range(len(table))]
            table["part"] = pandas.Series(parts, order, dtype="str")
            path, nothing = table["path"].astype(str), float("nan")
            tables[split] = table.assign(path=path, time_start=nothing, time_end=nothing)
        return cls.indexed(labels_of(tables), tables)

    @classmethod
    def indexed(cls, classes: list[str], tables: Mapping[str, "pandas.DataFrame"]) -> "Annotations":
        """The annotations of tables that have all of `COLUMNS` but `class_index` and `split`."""
        index = {name: number for number, name in enumerate(classes)}
        whole = {}
        for split, table in tables.items():
            table = table.assign(class_index=table["label"].map(index).astype("int64"), split=split)
            whole[split] = table[list(COLUMNS)].reset_index(drop=True)
        return cls(classes, whole)


@dataclass(frozen=True)
class Published:
    """What others found with a data set."""

    name: str
    """The name under which they publish results, as in `facts/published_results.csv`."""
    classes: int
    split: str = "val"
    """The split that their results are about."""
    counts: "pandas.DataFrame | None" = None
    """A row a split with `annotated`, `in_archives`, `authors_copy` (videos; NA where nobody says)."""
    origin: str = ""
    """Where the counts come from."""


@dataclass(frozen=True)
class Requirement:
    """Something that a source needs on this machine; `advice` says what to do, and is "" where it is met."""

    what: str
    found: str
    advice: str = ""


class DataSource(ABC):
    """A data set, or a family of data sets; `SOURCES[name](dataset)` is one of a config.

    Only `annotations` has to be given. A set whose videos lie in archives sets `archived` and gives
    `download` too.
    """

    Options: ClassVar[type[SourceOptions]] = SourceOptions
    """The keys of `dataset.<source>`; its docstring describes the block in the schema."""
    seconds: ClassVar[float] = 10.0
    """Length of a video for `v4d estimate`, until clips have been made."""
    retries: ClassVar[int] = 0
    """How often the workflow tries again to bring an archive."""
    downloads: ClassVar[int] = 0
    """How many of the downloads that a profile allows at a time a job counts for."""
    unfinished_hint: ClassVar[str] = ""
    """How to do without parts that cannot be had, as the end of a message."""
    archived: ClassVar[bool] = False
    """Whether the videos lie in archives, which `download` brings."""

    def __init__(self, dataset: DatasetConfig):
        self.dataset = dataset
        self.paths = dataset.paths
        self.options: Any = dataset.options

    # What should exist

    @abstractmethod
    def annotations(self) -> Annotations:
        """The classes, and a table for each of `dataset.splits`; not yet cut to `dataset.limit`.

        Raises:
            V4DError: something is wrong with the source, in one line.
        """

    def remarks(self, tables: Annotations) -> list[str]:
        """What is left out, or looks like a mistake: lines that the user is shown when tables are written."""
        splits = {split: set(table["label"]) for split, table in tables.tables.items()}
        return [
            f"of {split} alone: {some_of(sorted(alone))} ({len(alone)} of {len(tables.classes)} classes)"
            for split, labels in splits.items()
            if len(splits) > 1
            and (alone := labels - set().union(*(splits[other] for other in splits if other != split)))
        ]

    def count(self, split: str) -> int:
        """Annotated videos of a split."""
        return self._counts[split]

    def parts(self, split: str) -> list[str]:
        """The parts of a split, known before anything has run: the workflow's jobs are made of them.

        Their names have letters, digits, `_` and `-`.
        """
        return [f"part_{n}" for n in range(max(1, -(-self.count(split) // self.dataset.part_size)))]

    def state(self) -> str:
        """Changes when videos of a user do, so that the workflow sees new, changed and deleted files."""
        return ""

    def annotation_settings(self) -> dict[str, Any]:
        """What decides which videos there should be and how they are dealt to parts: a param of the rule.

        Another value makes the tables anew, and all that is made of them.
        """
        keys = ("source", "splits", "limit", "part_size")
        return self._keys(*keys) | {"source_settings": self._source_settings()}

    # Archives

    def archive(self, split: str, part: str) -> Path | None:
        """The archive of a part; None where nothing has to be fetched."""
        return self.paths.archive(split, part) if self.archived else None

    def download(self, split: str, part: str) -> Path:
        """Bring what a part needs; the path it then has.

        The file appears whole or not at all (`v4d.utils.files.atomic_path`). Addresses in the config are
        without a user's password, which `v4d.utils.addresses.whole` puts back.

        Raises:
            V4DError: the source has no archives, or it cannot be had.
        """
        name = self.dataset.source
        raise V4DError(f"dataset.source {name} has no archives: its clips are made from the files themselves")

    def archive_settings(self) -> dict[str, Any]:
        """What the bytes of every archive depend on: a param of the rule."""
        return self._source_settings()

    def content(self, split: str, part: str) -> dict[str, Any]:
        """What else the bytes of one part depend on: a param of the rules that bring and transcode it."""
        return {}

    def waits_for(self, split: str, part: str) -> list[str]:
        """Parts of the split whose clips have to be made before this part is brought."""
        return []

    @property
    def keeps_archives(self) -> bool:
        """Whether archives stay after their clips are made."""
        return False

    def download_threads(self, cores: int) -> int:
        """Threads of a job that brings an archive, on a machine with so many cores."""
        return 1

    def verify_archives(self) -> list[str] | None:
        """A line for each archive on disk that is not what it was; None where none was downloaded."""
        return None

    # Videos

    def expected(self, split: str, part: str, annotated: "pandas.DataFrame") -> "pandas.DataFrame":
        """The annotated videos of a split that a part may hold."""
        return annotated[annotated["part"].isin(["", part])]

    def videos(self, split: str, part: str, expected: "pandas.DataFrame") -> Iterator[SourceVideo]:
        """The videos of a part, each once. One that does not come counts as missing.

        Args:
            expected: rows of the annotations, as `expected` gives them.
        """
        archive = self.archive(split, part)
        return file_videos(expected) if archive is None else archive_videos(archive, expected)

    def max_bad_share(self, split: str, part: str) -> float:
        """The share of bad videos above which a part fails."""
        return self.dataset.max_bad_share

    def missing_reason(self, split: str) -> str:
        """Why an annotated video may be nowhere."""
        return "in no archive"

    def in_archives(self, manifest: "pandas.DataFrame") -> "pandas.Series[int] | None":
        """Videos by split that the archives hold in any state; None where all are where they should be."""
        return None

    def part_threads(self, cores: int) -> int:
        """Threads of a job that transcodes or decodes a part, on a machine with so many cores."""
        return min(cores, 16)

    # What is known beforehand

    def published(self) -> Published | None:
        """What others found; None where nobody can have found anything about this very data set."""
        return None

    def published_name(self, classes: int, split: str) -> str | None:
        """The name under which others publish results of so many classes on a split, if they do."""
        if self.dataset.published is not None:
            return self.dataset.published
        published = self.published()
        if published is None or (published.classes, published.split) != (classes, split):
            return None
        return published.name

    def expected_videos(self) -> int:
        """Videos that will be transcoded, where no tables are written yet."""
        return sum(len(limited(table, self.dataset.limit)) for table in self.annotations().tables.values())

    def transcoded(self, annotated: int) -> int:
        """How many of so many annotated videos will be transcoded."""
        return annotated

    def archive_cost(self, videos: int) -> StageCost:
        """What it costs to bring the archives of so many videos."""
        return StageCost(basis="nobody says" if self.archived else "none are needed")

    def requirements(self) -> Iterator[Requirement]:
        """What this machine needs for the source, met or not, for `v4d doctor`."""
        yield from ()

    # Checks

    def check_split(self, split: str) -> None:
        """Refuse a split that the config does not have."""
        if split not in self.dataset.splits:
            raise V4DError(f"no split {split!r}; dataset.splits has {', '.join(self.dataset.splits)}")

    def check_part(self, split: str, part: str, known: Collection[str] = ()) -> None:
        """Refuse a part that is none, and none of those `known` from a table that was written earlier."""
        self.check_split(split)
        names = self.parts(split)
        if part not in {*names, *known} or not part:
            numbered = [name for name in names if not self.waits_for(split, name)]
            raise V4DError(f"no part {part!r}; {split} has {numbered[0]} to {numbered[-1]}")

    @functools.cached_property
    def _counts(self) -> dict[str, int]:
        return {split: len(table) for split, table in self.annotations().tables.items()}

    def _keys(self, *names: str) -> dict[str, Any]:
        return {name: plain(getattr(self.dataset, name)) for name in names}

    def _source_settings(self) -> dict[str, Any]:
        return settings(plain(self.options), type(self.options))


def open_source(dataset: DatasetConfig) -> DataSource:
    """The source of a configured data set.

    Raises:
        V4DError: nobody has published anything under the name that it gives.
    """
    if dataset.published is not None:
        from v4d.datasets.published import published_names  # pandas is imported where it is needed

        if dataset.published not in published_names():
            known = ", ".join(published_names())
            raise V4DError(f"config: dataset.published: {dataset.published!r} is not one of {known}")
    source: DataSource = SOURCES[dataset.source](dataset)
    return source


def file_videos(rows: "pandas.DataFrame") -> Iterator[SourceVideo]:
    """The videos of an annotations table that names files, in its order."""
    for video_id, path in zip(rows["video_id"], rows["path"], strict=True):
        if Path(path).is_file():
            yield SourceVideo(video_id, Path(path))
        else:
            yield SourceVideo(video_id, None, status="missing", reason=f"no such file: {path}")


def archive_videos(
    archive: Path,
    expected: "pandas.DataFrame",
    replacement: Callable[[str], Member | None] | None = None,
) -> Iterator[SourceVideo]:
    """The annotated videos of an archive, each once, streamed.

    A member whose name holds another span than the annotated one is another clip of that video, and passed
    over.

    Args:
        expected: rows of the annotations.
        replacement: what takes the place of a corrupted video, if there is anything, by its id.

    Raises:
        ArchiveError: as `read_members`.
    """
    columns = (expected[name] for name in ("video_id", "time_start", "time_end"))
    spans = {video_id: annotated for video_id, *annotated in zip(*columns, strict=True)}
    seen: set[str] = set()

    def wanted(video_id: str, span: tuple[int, int] | None) -> bool:
        if video_id in seen or video_id not in spans:
            return False
        return span is None or isnan(spans[video_id][0]) or list(span) == spans[video_id]

    with _with_advice():
        for member in read_members(archive, wanted):
            seen.add(member.video_id)  # the same name twice: the first one counts
            better = replacement(member.video_id) if replacement else None
            if better is not None:
                yield SourceVideo(member.video_id, better, replaced=True)
            elif member.refused:
                yield SourceVideo(member.video_id, None, status="refused", reason=member.refused)
            else:
                read = functools.partial(_read, member)
                yield SourceVideo(member.video_id, dataclasses.replace(member, read=read))


def _read(member: Member) -> bytes:
    with _with_advice():
        return member.read()


@contextmanager
def _with_advice() -> Iterator[None]:
    """A damaged archive is an error that says how to get another one."""
    try:
        yield
    except ArchiveError as error:
        raise ArchiveError(f"{error}; `v4d download` brings it anew where the file is deleted") from error


def labels_of(tables: Mapping[str, "pandas.DataFrame"]) -> list[str]:
    """The labels of all splits in alphabetical order."""
    return sorted({label for table in tables.values() for label in table["label"]})


def limited(table: "pandas.DataFrame", limit: int | None) -> "pandas.DataFrame":
    """At most `limit` videos a class, the first ones."""
    return table if limit is None else table.groupby("class_index", sort=False).head(limit)
