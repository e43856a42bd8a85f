"""Kinetics: its keys."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from v4d.config.data import DatasetConfig, SourceOptions
from v4d.config.fields import List, Number, key
from v4d.errors import V4DError

URL = r"^(https?|file)://"


class KineticsOptions(SourceOptions):
    """Kinetics from the public archives."""

    traceless: ClassVar[bool] = False

    version: Literal["400"] = key("400", "Which Kinetics.")
    subset: Literal["mini200"] | None = key(None, "null for all classes, mini200 for Mini-Kinetics-200.")
    base_url: str = key(
        "https://s3.amazonaws.com/kinetics",
        "Where the archives lie; https, http or file, so that a mirror can serve.",
        pattern=URL,
    )
    mini_url: str = key(
        "https://raw.githubusercontent.com/s9xie/Mini-Kinetics-200/master",
        "Folder of the Mini-Kinetics lists.",
        pattern=URL,
    )
    mini_sha256: dict[str, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] | None = key(
        {
            "train": "0441a381a00524a4577c2a94bff3bc5cf47624d19d1026909e192afa0dabb541",
            "val": "a60dfc6ff61092accb522f17e989b58a5790a6e41f8a6ea698e59a714a3168f1",
        },
        "sha256 of the Mini-Kinetics lists by split; null skips the check.",
    )
    parts: dict[str, Annotated[int, Field(ge=1)]] = key(
        {"train": 242, "val": 20, "test": 39}, "Number of archives in each split."
    )
    use_replacements: bool = key(True, "Apply the archive of replacements for corrupted training videos.")
    keep_archives: bool = key(False, "Keep downloaded archives after their clips are made.")
    connections: int = key(4, "Connections a download job may open at once.", ge=1, le=32)
    rate_limit: Annotated[float, Field(gt=0)] | None = key(
        None, "Megabytes a second a download job may take; null for no limit."
    )
    class_count: Annotated[int, Field(ge=1)] | None = key(
        400, "Number of classes the annotations must have; null skips the check, for miniature mirrors."
    )
    youtube: bool = key(False, "Fetch what no archive holds from YouTube (needs the extra v4d[youtube]).")
    cookies: str | None = key(None, "Cookies file for YouTube; null for none.")
    youtube_wait: Number = key(
        10, "Seconds between two videos from YouTube; after a refusal twice as long each time.", gt=0
    )
    give_up: List[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*/(part_[0-9]+|youtube)$")]] = key(
        (),
        "Parts of which nothing more is fetched, as SPLIT/PART (train/part_3, train/youtube), so that the "
        "data set can be finished without them; their videos that are not here count as missing.",
        unique=True,
    )

    def check(self, dataset: DatasetConfig) -> None:
        """Refuse a split without a number of archives, and a part to give up that does not exist."""
        absent = [split for split in dataset.splits if split not in self.parts]
        if absent:
            raise V4DError(f"config: dataset.kinetics.parts has no entry for split {absent[0]!r}")
        names = {split: [f"part_{n}" for n in range(count)] for split, count in self.parts.items()}
        for entry in self.give_up:
            split, part = entry.split("/")
            if part not in [*names.get(split, []), "youtube"]:
                raise V4DError(f"config: dataset.kinetics.give_up: there is no part {entry!r}")


class Kinetics:
    """Kinetics from the public archives."""

    Options = KineticsOptions
