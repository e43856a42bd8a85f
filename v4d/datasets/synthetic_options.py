"""The made-up set: its keys."""

from typing import Annotated, ClassVar

from pydantic import Field

from v4d.config.data import DatasetConfig, SourceOptions
from v4d.config.fields import key
from v4d.errors import V4DError


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

    def check(self, dataset: DatasetConfig) -> None:
        """Refuse a split without a number of videos."""
        absent = [split for split in dataset.splits if split not in self.videos]
        if absent:
            raise V4DError(f"config: dataset.synthetic.videos has no entry for split {absent[0]!r}")


class Synthetic:
    """The made-up set."""

    Options = SyntheticOptions
