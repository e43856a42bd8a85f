"""Keys of the data set, its clips and its frames."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from v4d.config.fields import Block, List, Number, key
from v4d.config.paths import DatasetPaths

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
SPLIT = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
Size = Annotated[int, Field(ge=16, le=4096)] | Annotated[str, Field(pattern=r"^[1-9][0-9]*x[1-9][0-9]*$")]


class SourceOptions(Block):
    """Keys of one source of videos, `dataset.<source>`; a source without any takes this class as it is."""

    defaults: ClassVar[dict[str, Any]] = {}
    """What this source lays under a user's config, e.g. no flip where left and right are classes."""
    traceless: ClassVar[bool] = True
    """Whether the block leaves no trace in a config's sha while its keys have their defaults; False for the
    sources that are older than this rule."""

    def check(self, dataset: "DatasetConfig") -> None:
        """Refuse what no single key can tell.

        Raises:
            V4DError: one line that names the key.
        """


class DatasetConfig(Block):
    """`dataset`; each registered source has a block of its own behind these keys."""

    name: str = key(..., "Name of the data set; its files go to data/<name>.", pattern=NAME)
    source: str = key(..., "Where the videos come from.")
    splits: List[Annotated[str, Field(pattern=SPLIT)]] = key(
        ("train", "val"), "The splits to prepare.", min_length=1, unique=True
    )
    part_size: int = key(
        1000,
        "Videos in a part (one archive, one tar, one shard); for sources that have no archives of their own.",
        ge=1,
    )
    limit: Annotated[int, Field(ge=1)] | None = key(
        None, "Videos a class to keep, for a trial run; null keeps all."
    )
    published: str | None = key(
        None,
        "Name under which others publish results of the tested split, as Something-Something-v1; null for "
        "what the source knows.",
        changes="nothing",
        before=None,
    )
    max_bad_share: Number = key(
        0.25,
        "A part with a larger share of bad videos fails, and says which and why.",
        ge=0,
        le=1,
        changes="nothing",
    )

    @property
    def root(self) -> Path:
        """Folder of everything that is made of this data set."""
        return self.paths.root

    @property
    def paths(self) -> DatasetPaths:
        """Where its files lie."""
        return DatasetPaths(Path("data") / self.name)

    @property
    def options(self) -> Any:
        """The block of its source, an instance of the source's `Options`."""
        return getattr(self, self.source)


class ClipsConfig(Block):
    """`clips`: how videos are transcoded."""

    size: Size = key(
        "320x256",
        "WIDTHxHEIGHT exactly (ratio not kept, as released), or a number for the short side (ratio kept).",
    )
    gop: int = key(16, "Frames between two key frames.", ge=1)
    crf: int = key(18, "x264's constant rate factor; lower is better and larger.", ge=0, le=51)
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow"] = key(
        "veryfast", "x264's speed preset."
    )
    fps: Annotated[float, Field(gt=0)] | None = key(
        None, "Frames a second of a constant-rate clip; null keeps the source's own timing."
    )
    min_frames: int = key(1, "A clip with fewer decodable frames is too_short.", ge=1)
    timeout: Number = key(
        120, "Seconds a video may take; then its process is killed.", gt=0, changes="videos"
    )
    max_megabytes: int = key(
        256,
        "A video of an archive with more MiB is refused: it would have to be held in memory.",
        ge=1,
        changes="videos",
        before=256,
    )
    keep: bool = key(True, "Keep the clips after their frames are extracted.", changes="nothing")


class FramesConfig(Block):
    """`frames`: how clips become JPEG frames."""

    size: Size | None = key(None, "As clips.size; null keeps the clip's own size.")
    quality: int = key(90, "JPEG quality.", ge=1, le=100)
    stride: int = key(1, "Keep every n-th frame; sampling still counts source frames.", ge=1)
    decoder: Literal["auto", "pyav", "decord"] = key(
        "auto",
        "auto takes PyAV, the faster one; decord is for x86-64 only. What decord cannot read goes to PyAV.",
    )
    timeout: Number = key(120, "Seconds a clip may take; then its decoder is killed.", gt=0, changes="videos")


def frame_size(size: str | int) -> tuple[int, int] | int:
    """`"320x256"` -> (320, 256), width and height; a number is a short side."""
    if isinstance(size, int):
        return size
    width, height = size.split("x")
    return int(width), int(height)
