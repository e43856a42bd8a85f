"""From a config to the clips of one part: which videos, from where."""

from collections.abc import Iterator

import pandas

from v4d.config import ClipsConfig, DatasetConfig
from v4d.datasets import youtube
from v4d.datasets.annotations import YOUTUBE, part_names
from v4d.datasets.archives import ArchiveError
from v4d.datasets.kinetics import replacements_path
from v4d.datasets.replacements import Replacements
from v4d.errors import V4DError
from v4d.preprocessing.clips import SourceVideo, archive_videos, file_videos, make_clips
from v4d.utils.cost import measured


def transcode_part(
    dataset: DatasetConfig, settings: ClipsConfig, split: str, part: str, threads: int
) -> pandas.DataFrame:
    """Make the clips of one part of a configured data set; returns its ledger.

    Raises:
        V4DError: the annotations or the archive are not there, or as `make_clips`.
    """
    expected = _annotations(dataset, split)
    _check_part(dataset, split, part, set(expected["part"]))
    total = max(1, round(len(expected) / len(part_names(dataset, split))))  # no list says what is in which
    max_bad_share = dataset.max_bad_share
    if dataset.source == "folder":
        expected = expected[expected["part"] == part]
        videos = file_videos(expected)
    elif part == YOUTUBE:
        expected = youtube.missing_videos(dataset, split).assign(part=part)
        videos = youtube.youtube_videos(dataset, split, expected)
        max_bad_share = 1.0  # most of what no archive holds is gone from YouTube, too
    else:
        videos = _archived(dataset, split, part, expected)
    folder = dataset.root / "clips" / split
    with measured(dataset.root, "clips", split, part) as cost:
        table = make_clips(
            videos,
            expected,
            split=split,
            part=part,
            tar=folder / f"{part}.tar",
            ledger=folder / f"{part}.parquet",
            settings=settings,
            threads=threads,
            max_bad_share=max_bad_share,
            total=total,
        )
        cost.videos, cost.bytes = len(table), int(table["bytes"].sum())
    return table


def _archived(
    dataset: DatasetConfig, split: str, part: str, expected: pandas.DataFrame
) -> Iterator[SourceVideo]:
    archive = dataset.root / "archives" / split / f"{part}.tar.gz"
    replaced = None if dataset.given_up(split, part) else replacements_path(dataset, split)
    try:
        yield from archive_videos(archive, expected, Replacements(replaced) if replaced else None)
    except ArchiveError as error:
        raise V4DError(f"{error}; `v4d download` brings it anew where the file is deleted") from error


def _check_part(dataset: DatasetConfig, split: str, part: str, annotated: set[str]) -> None:
    """A part is one that the config has, or that was annotated before files of a folder went away."""
    names = part_names(dataset, split)
    if part == YOUTUBE and YOUTUBE not in names:
        raise V4DError("YouTube is off: dataset.kinetics.youtube is false")
    if part not in annotated.union(names) or not part:
        numbered = [name for name in names if name != YOUTUBE]
        raise V4DError(f"no part {part!r}; {split} has {numbered[0]} to {numbered[-1]}")


def _annotations(dataset: DatasetConfig, split: str) -> pandas.DataFrame:
    if split not in dataset.splits:
        raise V4DError(f"no split {split!r}; dataset.splits has {', '.join(dataset.splits)}")
    path = dataset.root / "annotations" / f"{split}.parquet"
    if not path.exists():
        raise V4DError(f"no such file: {path}; run `v4d annotations` first")
    return pandas.read_parquet(path)
