"""Kinetics from the public archives, and from YouTube what they lack.

What is known of each version stands in `kinetics_versions`, how its files are fetched and read in
`kinetics_annotations`, `kinetics_archives` and `youtube`; these are imported where they are needed.
"""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from v4d.config import DatasetConfig, SourceOptions, key
from v4d.config.fields import List, Number
from v4d.datasets import kinetics_versions as versions
from v4d.datasets.base import Annotations, DataSource, Published, Requirement, SourceVideo
from v4d.datasets.kinetics_versions import DEFAULT, VERSIONS, YOUTUBE
from v4d.datasets.lockfile import LockFile, verify_archives
from v4d.errors import V4DError
from v4d.utils.cost import StageCost, total_cost

if TYPE_CHECKING:
    import pandas

    Version = str
    Subset = str
else:  # the names in the table
    Version = Literal[tuple(VERSIONS)]
    Subset = Literal[tuple(name for whole in VERSIONS.values() for name in whole.subsets)]

ARCHIVES_AT_ONCE = 54
"""On their way, waiting or in use: four downloads beside the 50 jobs of a cluster's profile. One machine
has fewer: clips are made before more is fetched (the priorities in workflow/rules)."""
ARCHIVE_CPU = 5.0
"""CPU seconds a GB of an archive: sha256, MD5 and gunzip are 3, the rest is TLS."""
COUNTS_ORIGIN = "the released CSVs, the public archives; under ok the V4D authors' own copy"
URL = r"^(https?|file)://"


class KineticsOptions(SourceOptions):
    """Kinetics from the public archives."""

    traceless: ClassVar[bool] = False

    version: Version = key(DEFAULT, "Which Kinetics.")
    subset: Subset | None = key(None, "null for all classes, mini200 for Mini-Kinetics-200.")
    base_url: str = key(
        "https://s3.amazonaws.com/kinetics",
        "Where the archives lie; https, http or file, so that a mirror can serve.",
        pattern=URL,
        changes="nothing",
    )
    mini_url: str = key(
        "https://raw.githubusercontent.com/s9xie/Mini-Kinetics-200/master",
        "Folder of the Mini-Kinetics lists.",
        pattern=URL,
        changes="nothing",
    )
    mini_sha256: dict[str, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] | None = key(
        dict(VERSIONS[DEFAULT].subsets["mini200"].lists),
        "sha256 of the Mini-Kinetics lists by split; null skips the check.",
    )
    parts: dict[str, Annotated[int, Field(ge=1)]] = key(
        dict(VERSIONS[DEFAULT].parts), "Number of archives in each split."
    )
    use_replacements: bool = key(True, "Apply the archive of replacements for corrupted training videos.")
    keep_archives: bool = key(
        False, "Keep downloaded archives after their clips are made.", changes="nothing"
    )
    connections: int = key(4, "Connections a download job may open at once.", ge=1, le=32, changes="nothing")
    rate_limit: Annotated[float, Field(gt=0)] | None = key(
        None, "Megabytes a second a download job may take; null for no limit.", changes="nothing"
    )
    class_count: Annotated[int, Field(ge=1)] | None = key(
        VERSIONS[DEFAULT].classes,
        "Number of classes the annotations must have; null skips the check, for miniature mirrors.",
    )
    youtube: bool = key(
        False, "Fetch what no archive holds from YouTube (needs the extra v4d[youtube]).", changes="videos"
    )
    cookies: str | None = key(None, "Cookies file for YouTube; null for none.", changes="nothing")
    youtube_wait: Number = key(
        10,
        "Seconds between two videos from YouTube; after a refusal twice as long each time.",
        gt=0,
        changes="nothing",
    )
    give_up: List[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*/(part_[0-9]+|youtube)$")]] = key(
        (),
        "Parts of which nothing more is fetched, as SPLIT/PART (train/part_3, train/youtube), so that the "
        "data set can be finished without them; their videos that are not here count as missing.",
        unique=True,
        changes="videos",
    )

    def check(self, dataset: DatasetConfig) -> None:
        """Refuse a subset of another version, a split without archives, and a part that does not exist."""
        if self.subset is not None and self.subset not in VERSIONS[self.version].subsets:
            raise V4DError(f"config: dataset.kinetics.subset: {self.version} has no {self.subset!r}")
        absent = [split for split in dataset.splits if split not in self.parts]
        if absent:
            raise V4DError(f"config: dataset.kinetics.parts has no entry for split {absent[0]!r}")
        for entry in self.give_up:
            split, part = entry.split("/")
            if part != YOUTUBE and not (split in self.parts and part in self.archive_names(split)):
                raise V4DError(f"config: dataset.kinetics.give_up: there is no part {entry!r}")

    @property
    def whole(self) -> versions.Version:
        """The version that is taken."""
        return VERSIONS[self.version]

    @property
    def edition(self) -> versions.Edition:
        """The version that is taken, or its subset."""
        return self.whole.subsets[self.subset] if self.subset else self.whole

    def archive_names(self, split: str) -> list[str]:
        """The parts of a split that the public archives hold."""
        return [f"part_{n}" for n in range(self.parts[split])]

    def given_up(self, split: str, part: str) -> bool:
        """Whether the user does without the rest of a part."""
        return f"{split}/{part}" in self.give_up


class Kinetics(DataSource):
    """Kinetics from the public archives."""

    Options = KineticsOptions
    options: KineticsOptions
    archived = True
    retries = 2
    downloads = 1
    unfinished_hint = "dataset.kinetics.give_up makes the data set without them"

    def annotations(self) -> Annotations:
        """Fetched and read; no list says which archive holds a video, so `part` is unknown."""
        from v4d.datasets.kinetics_annotations import kinetics_annotations

        return kinetics_annotations(self.dataset)

    def parts(self, split: str) -> list[str]:
        """A part is a public archive; `youtube` is what none of them holds."""
        return self.options.archive_names(split) + ([YOUTUBE] if self.options.youtube else [])

    def annotation_settings(self) -> dict[str, Any]:
        """One more split changes no other, nor do addresses.

        What came from one is locked by its sha256, and another mirror in the middle of a download is no
        reason to begin anew.
        """
        names = ("version", "subset", "class_count", "mini_sha256")
        # of a mirror with any number of classes, all splits together tell which they are
        keys = ("source", "limit") if self.options.class_count else ("source", "limit", "splits")
        return self._keys(*keys) | {"source_settings": {name: getattr(self.options, name) for name in names}}

    # Archives

    def download(self, split: str, part: str) -> Path:
        """Bring one archive, `replacements`, or `youtube`; the path it then has.

        Raises:
            V4DError: there is no such part, it cannot be had, or is another than the one that was locked.
        """
        from v4d.datasets import kinetics_archives, youtube

        if part == "replacements":
            self.check_split(split)
            path = kinetics_archives.download_replacements(self.dataset, split)
            if path is None:
                raise V4DError(f"{split} has no replacements, or dataset.kinetics.use_replacements is off")
            return path
        self.check_part(split, part)
        if part == YOUTUBE:
            return youtube.download_missing(self.dataset, split)
        return kinetics_archives.download_archive(self.dataset, split, part)

    def archive_settings(self) -> dict[str, Any]:
        """What the bytes of every archive depend on."""
        return {"version": self.options.version}

    def content(self, split: str, part: str) -> dict[str, Any]:
        """What else the bytes of one part depend on."""
        replaced = split == self.options.whole.replaced_split and part != YOUTUBE
        return {
            "given_up": self.options.given_up(split, part),
            "replacements": replaced and self.options.use_replacements,
        }

    def waits_for(self, split: str, part: str) -> list[str]:
        """What no archive holds is known when all archives are used up."""
        return self.options.archive_names(split) if part == YOUTUBE else []

    @property
    def keeps_archives(self) -> bool:
        """Whether archives stay after their clips are made."""
        return self.options.keep_archives

    def verify_archives(self) -> list[str]:
        """A line for each archive on disk that is not what it was.

        In the place of an archive that is given up lies an empty one.
        """
        given = (name.split("/") for name in self.options.give_up)
        empty = [self.paths.archive(split, part) for split, part in given if part != YOUTUBE]
        return verify_archives(self.paths, empty)

    # Videos

    def expected(self, split: str, part: str, annotated: "pandas.DataFrame") -> "pandas.DataFrame":
        """All videos of the split; of `youtube` those of which no archive holds a usable one."""
        if part != YOUTUBE:
            return annotated
        from v4d.datasets.youtube import missing_videos

        return missing_videos(self.dataset, split).assign(part=part)

    def videos(self, split: str, part: str, expected: "pandas.DataFrame") -> Iterator[SourceVideo]:
        """The videos of a part, corrupted ones replaced."""
        from v4d.datasets import kinetics_archives, youtube

        if part == YOUTUBE:
            return youtube.youtube_videos(self.dataset, split, expected, self.missing_reason(split))
        return kinetics_archives.archived_videos(self.dataset, split, part, expected)

    def max_bad_share(self, split: str, part: str) -> float:
        """Any share for `youtube`: most of what no archive holds is gone from YouTube, too."""
        return 1.0 if part == YOUTUBE else self.dataset.max_bad_share

    def missing_reason(self, split: str) -> str:
        """Why an annotated video may be nowhere: no list says which archive should have held it."""
        names = [f"{split}/{part}" for part in self.parts(split) if self.options.given_up(split, part)]
        return f"in no archive (given up: {', '.join(names)})" if names else "in no archive"

    def in_archives(self, manifest: "pandas.DataFrame") -> "pandas.Series[int]":
        """Videos by split that the archives hold in any state."""
        held = manifest[(manifest["status"] != "missing") & (manifest["part"] != YOUTUBE)]
        return held.groupby("split").size()

    def part_threads(self, cores: int) -> int:
        """Threads of a job that transcodes or decodes a part.

        Snakemake begins whatever fits into the free cores: beside downloads, of one core each and four at a
        time, a job that wants all cores would wait until the last archive is there, and all archives with it.
        """
        return max(1, min(4, cores - 4))

    # What is known beforehand

    def published(self) -> Published | None:
        """A trial run is another data set; with another number of classes it may be a miniature mirror."""
        if self.dataset.limit is not None:
            return None
        taken, complete = self.options.edition, self.options.whole.classes == self.options.class_count
        counts = self._published_counts() if complete else None
        return Published(taken.title, taken.classes, counts=counts, origin=COUNTS_ORIGIN)

    def expected_videos(self) -> int:
        """By the published counts."""
        counts, limit = self._published_counts(), self.dataset.limit
        most = limit * self.options.edition.classes if limit else None
        found = counts["in_archives"].fillna(counts["annotated"])
        return self.transcoded(int(found.clip(upper=most).sum()))

    def transcoded(self, annotated: int) -> int:
        """Of archives that the config does not take no video is transcoded."""
        public = self.options.whole
        if self.options.class_count != public.classes:
            return annotated  # a mirror of its own
        splits = [split for split in self.dataset.splits if split in public.parts]
        taken = sum(min(self.options.parts[split], public.parts[split]) for split in splits)
        return round(annotated * taken / sum(public.parts[split] for split in splits))

    def archive_cost(self, videos: int) -> StageCost:
        """Archives of the average size, or of the size of those that have come."""
        options, public, splits = self.options, self.options.whole, self.dataset.splits
        parts = [(split, part) for split in splits for part in options.archive_names(split)]
        count = sum(not options.given_up(*part) for part in parts)
        sizes = [e.size for name, e in LockFile(self.paths.lock).entries().items() if "/part_" in name]
        size = sum(sizes) / len(sizes) if sizes else public.archive_bytes
        replaced = options.use_replacements and public.replaced_split in splits
        extra = replaced * public.replacements * public.size / public.videos
        download = count * size + extra
        so_far = total_cost(self.paths.costs("archives"))
        cpu = so_far.cpu_seconds / (so_far.bytes / 1e9) if so_far.bytes else ARCHIVE_CPU
        at_once = min(count, ARCHIVES_AT_ONCE) * size
        disk, passing = (download, 0.0) if options.keep_archives else (extra, at_once)
        basis = f"measured, {len(sizes)} archives" if sizes else "averages"
        return StageCost(download, disk, passing, cpu * download / 1e9, basis)

    def requirements(self) -> Iterator[Requirement]:
        """What the second source of videos needs, where it is on."""
        if self.options.youtube:
            from v4d.datasets.youtube import requirements

            yield from requirements(self.options.cookies)

    def check_part(self, split: str, part: str, known: Collection[str] = ()) -> None:
        """Refuse a part that there is none of, and `youtube` where that is off."""
        self.check_split(split)
        if part == YOUTUBE and not self.options.youtube:
            raise V4DError("YouTube is off: dataset.kinetics.youtube is false")
        super().check_part(split, part, known)

    def _published_counts(self) -> "pandas.DataFrame":
        from v4d.datasets.published import published_counts

        return published_counts(self.options.edition.counts, self.dataset.splits)
