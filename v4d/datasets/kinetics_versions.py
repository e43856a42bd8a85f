"""The versions of Kinetics that are known, by facts/kinetics_versions.json: another one is an entry there."""

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from v4d.utils.files import read_json

FACTS = Path(__file__).parent / "facts"

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
    splits: list[str]
    outputs: str
    """File of facts/ with the class names in the order of a released model's outputs."""
    lists: dict[str, str] = field(default_factory=dict, kw_only=True)
    """sha256 of the lists of a subset's ids, by split."""

    def released_classes(self) -> list[str]:
        """The class names in the order of a released model's outputs."""
        return read_json(FACTS / self.outputs)["classes"]


@dataclass(frozen=True)
class Version(Edition):
    """All of a version; the outputs of its released models are its classes in alphabetical order."""

    parts: dict[str, int]
    """Public archives of each split."""
    size: float
    """Bytes of all public archives."""
    videos: int
    """Videos in them."""
    replaced_split: str
    """The split whose corrupted videos have replacements."""
    replacements: int
    """Videos that are replaced."""
    subsets: dict[str, Edition]

    @property
    def archive_bytes(self) -> float:
        """Bytes of an archive on average."""
        return self.size / sum(self.parts.values())


VERSIONS = TypeAdapter(dict[str, Version]).validate_python(read_json(FACTS / "kinetics_versions.json"))
DEFAULT = "400"


def released_classes(count: int = VERSIONS[DEFAULT].classes) -> list[str]:
    """The classes of a released model with so many outputs, in their order; [] where none is known.

    By default those to whose indices the authors' converter files refer.
    """
    editions = [each for whole in VERSIONS.values() for each in (whole, *whole.subsets.values())]
    return next((each.released_classes() for each in editions if each.classes == count), [])
