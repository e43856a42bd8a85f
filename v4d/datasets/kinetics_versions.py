"""The versions of Kinetics that are known, and the parts that a config takes of one."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources

from v4d.config import DatasetConfig

YOUTUBE = "youtube"
"""The part of what no archive holds, where dataset.kinetics.youtube is on."""


@dataclass(frozen=True)
class Edition:
    """A version of Kinetics, or a subset of one, as the public knows it."""

    title: str
    """The name under which results are published."""
    classes: int
    counts: str
    """Its rows in facts/published_counts.csv."""
    splits: tuple[str, ...]
    outputs: str
    """File of facts/ with the class names in the order of a released model's outputs."""

    def released_classes(self) -> list[str]:
        """The class names in the order of a released model's outputs."""
        text = (resources.files("v4d.datasets") / "facts" / self.outputs).read_text(encoding="utf-8")
        names: list[str] = json.loads(text)["classes"]
        return names


@dataclass(frozen=True)
class Version(Edition):
    """All of a version; the outputs of its released models are its classes in alphabetical order."""

    parts: Mapping[str, int]
    """Public archives of each split."""
    archive_bytes: float
    """Of an archive on average."""
    replaced_split: str
    """The split whose corrupted videos have replacements."""
    replacement_bytes: float
    """Of all replacements."""
    subsets: Mapping[str, Edition] = field(default_factory=dict)


VERSIONS = {
    "400": Version(
        title="Kinetics-400",
        classes=400,
        counts="kinetics400",
        splits=("train", "val", "test"),
        outputs="kinetics400_classes.json",
        parts={"train": 242, "val": 20, "test": 39},
        archive_bytes=436e9 / 301,
        replaced_split="train",
        replacement_bytes=1_392 * 436e9 / (240_258 + 19_881 + 38_685),  # 1,392 videos of average size
        subsets={
            "mini200": Edition(
                title="Mini-Kinetics-200",
                classes=200,
                counts="mini200",
                splits=("train", "val"),
                outputs="mini_kinetics200_released_order.json",
            )
        },
    )
}
DEFAULT = "400"


def version(dataset: DatasetConfig) -> Version:
    """The version that a config takes."""
    return VERSIONS[dataset.options.version]


def edition(dataset: DatasetConfig) -> Edition:
    """The version that a config takes, or its subset."""
    whole, subset = version(dataset), dataset.options.subset
    return whole if subset is None else whole.subsets[subset]


def released_classes(count: int) -> list[str] | None:
    """The classes of a released model with so many outputs, in their order; None where none is known."""
    editions = [each for whole in VERSIONS.values() for each in (whole, *whole.subsets.values())]
    return next((each.released_classes() for each in editions if each.classes == count), None)


def converted_classes() -> list[str]:
    """The classes to whose indices the authors' converter files refer."""
    return VERSIONS[DEFAULT].released_classes()


def archive_names(dataset: DatasetConfig, split: str) -> list[str]:
    """The parts of a split that the public archives hold."""
    return [f"part_{n}" for n in range(dataset.options.parts[split])]


def given_up(dataset: DatasetConfig, split: str, part: str) -> bool:
    """Whether the user does without the rest of a part."""
    return f"{split}/{part}" in dataset.options.give_up


def part_names(dataset: DatasetConfig, split: str) -> list[str]:
    """The parts of a split: those of the public archives, and `YOUTUBE` where that is on."""
    return archive_names(dataset, split) + ([YOUTUBE] if dataset.options.youtube else [])


def missing_reason(dataset: DatasetConfig, split: str) -> str:
    """Why an annotated video may be nowhere: no list says which archive should have held it."""
    names = [f"{split}/{part}" for part in part_names(dataset, split) if given_up(dataset, split, part)]
    return f"in no archive (given up: {', '.join(names)})" if names else "in no archive"
