"""The made-up data set, in which the class of a video is the order of its two motions.

Its archives are rendered here (`synthetic_videos`), so that the pipeline can be tried without a download.
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from v4d.config import DatasetConfig, SourceOptions, key
from v4d.datasets.base import Annotations, DataSource
from v4d.errors import V4DError
from v4d.utils.cost import StageCost

CLASSES = ("down_then_up", "left_then_right", "right_then_left", "up_then_down")
VIDEO_BYTES, VIDEO_CPU = 200e3, 0.17
"""Bytes of a video of 128x128 pixels and the CPU time (seconds) to render it: one core of an AMD EPYC."""


class SyntheticOptions(SourceOptions):
    """The made-up set, in which the class is the order of two motions."""

    traceless: ClassVar[bool] = False

    videos: dict[str, Annotated[int, Field(ge=4)]] = key(
        {"train": 480, "val": 160}, "Videos in each split, spread evenly over the four classes."
    )
    size: int = key(128, "Width and height, pixels.", ge=32, le=1024, multiple_of=2)
    rest_frames: int = key(
        16, "Frames between the two motions; longer than one unit spans, so that no unit sees both.", ge=1
    )
    seed: int = key(0, "Seed of everything drawn.", ge=0)
    task: Literal["order", "motion"] = key(
        "order",
        "What tells the class, beside the order of the units: where the object is in them (order), or only "
        "how it moves inside each (motion).",
        before="order",
    )

    def check(self, dataset: DatasetConfig) -> None:
        """Refuse a split without a number of videos."""
        absent = [split for split in dataset.splits if split not in self.videos]
        if absent:
            raise V4DError(f"config: dataset.synthetic.videos has no entry for split {absent[0]!r}")


class Synthetic(DataSource):
    """The made-up set."""

    Options = SyntheticOptions
    options: SyntheticOptions
    archived = True
    seconds = 3.8

    def annotations(self) -> Annotations:
        """A row a video; a part holds ids that follow one another."""
        listed = {split: [(*member, "") for member in self.members(split)] for split in self.dataset.splits}
        return Annotations.listed(self.dataset, listed, mixed=False)

    def count(self, split: str) -> int:
        """Videos of a split."""
        return self.options.videos[split]

    def members(self, split: str) -> list[tuple[str, str]]:
        """The ids of a split with their classes, which come in turn."""
        return [(f"{split}_{n:05d}", CLASSES[n % len(CLASSES)]) for n in range(self.options.videos[split])]

    def download(self, split: str, part: str) -> Path:
        """Render the videos of a part, on all cores."""
        from v4d.datasets.synthetic_videos import write_archive

        self.check_part(split, part)
        start = int(part.removeprefix("part_")) * self.dataset.part_size
        members = self.members(split)[start : start + self.dataset.part_size]
        path, look = self.paths.archive(split, part), self.options.model_dump(exclude={"videos"})
        write_archive(path, members, f"{split} {part}", **look)
        return path

    def archive_settings(self) -> dict[str, Any]:
        """What the bytes of every archive depend on."""
        return super().archive_settings() | {"part_size": self.dataset.part_size}

    def download_threads(self, cores: int) -> int:
        """All cores: nothing is waited for."""
        return cores

    def archive_cost(self, videos: int) -> StageCost:
        """Rendering; the archives are deleted after use."""
        scale = videos * (self.options.size / 128) ** 2
        return StageCost(passing=VIDEO_BYTES * scale, cpu_seconds=VIDEO_CPU * scale)
