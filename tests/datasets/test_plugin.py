"""Data sets of one's own, brought in by a config's `plugins`: a set of files and a set of archives."""

import sys
import tarfile
from pathlib import Path

import pandas
import pytest

from tests.support.broken_videos import sound
from v4d import config
from v4d.config import SourceOptions, key
from v4d.config.registry import SOURCES
from v4d.datasets import Annotations, DataSource, FileSource, open_source
from v4d.datasets.annotations import write_annotations
from v4d.datasets.archives import add_member
from v4d.errors import V4DError
from v4d.preprocessing.clips import transcode_part
from v4d.preprocessing.frames import extract_part
from v4d.preprocessing.manifest import counts_table, write_manifest
from v4d.preprocessing.verify import verify_dataset
from v4d.utils.files import atomic_path

# A set of files: the label stands before the first `_` of a name.


class FlatOptions(SourceOptions):
    """Videos side by side in one folder a split."""

    path: str = key("flat", "The folder.")


class Flat(FileSource):
    Options = FlatOptions

    def files(self, split):
        found = sorted(Path(self.options.path, split).glob("*.mp4"))
        return [(path, path.name.partition("_")[0]) for path in found]


# A set of archives, which a server packs on demand; here they are made on the spot.


class PackedOptions(SourceOptions):
    """Videos that are delivered in archives."""

    videos: int = key(6, "Videos in each split.", ge=2)
    seed: int = key(0, "Another one delivers other videos.")


class Packed(DataSource):
    Options = PackedOptions
    archived = True

    def annotations(self):
        listed = {
            split: [(f"{split}-{n}", f"label {n % 2}", "") for n in range(self.options.videos)]
            for split in self.dataset.splits
        }
        return Annotations.listed(self.dataset, listed)

    def download(self, split, part):
        self.check_part(split, part)
        table, path = self.annotations().tables[split], self.archive(split, part)
        with atomic_path(path) as temporary, tarfile.open(temporary, "w") as archive:
            for video_id in table.loc[table["part"] == part, "video_id"]:
                add_member(archive, f"{video_id}.mp4", sound(8, "32x24", self.options.seed))
        return path


PLUGIN = """
from tests.datasets.test_plugin import Flat, Packed
from v4d.datasets import SOURCES

SOURCES |= {"flat": Flat, "packed": Packed}
"""


@pytest.fixture(autouse=True)
def plugin(tmp_path, monkeypatch):
    """A module `own_sets` on Python's path, in the folder where the test runs."""
    (tmp_path / "own_sets.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    known = dict(SOURCES)
    yield
    SOURCES.clear()
    SOURCES.update(known)
    sys.modules.pop("own_sets", None)


def settings_of(source: str, **options) -> config.Config:
    dataset = {"name": "own", "source": source, "part_size": 4, source: options}
    document = {"name": "own", "dataset": dataset, "clips": {"size": "32x24"}, "plugins": ["own_sets"]}
    return config.build(config.resolve(document))


def made(settings: config.Config) -> pandas.DataFrame:
    """The manifest, made by all stages."""
    dataset = settings.dataset
    source = open_source(dataset)
    write_annotations(dataset)
    for split in dataset.splits:
        for part in source.parts(split):
            if source.archive(split, part):
                source.download(split, part)
            transcode_part(dataset, settings.clips, split, part, threads=2)
            extract_part(dataset, settings.frames, split, part, threads=2)
    write_manifest(settings)
    assert verify_dataset(settings) == []
    return pandas.read_parquet(dataset.paths.manifest)


def write_flat(folder: Path) -> None:
    for split, count in (("train", 6), ("val", 2)):
        for number in range(count):
            path = folder / split / f"{'ab'[number % 2]}_{number}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(sound(8, "32x24", number))


def test_files_of_ones_own_become_a_data_set():
    write_flat(Path("mine"))
    settings = settings_of("flat", path="mine")
    manifest = made(settings)
    assert set(manifest["status"]) == {"ok"} and len(manifest) == 8
    assert set(manifest["label"]) == {"a", "b"} and set(manifest["part"]) == {"part_0", "part_1"}
    assert list(counts_table(settings).columns) == ["annotated", "ok"]
    state = open_source(settings.dataset).state()
    Path("mine/val/a_0.mp4").unlink()
    assert open_source(settings.dataset).state() != state


def test_archives_of_ones_own_become_a_data_set():
    settings = settings_of("packed", videos=5)
    source = open_source(settings.dataset)
    assert source.parts("val") == ["part_0", "part_1"]
    assert source.archive_settings() == {"videos": 5, "seed": 0}
    manifest = made(settings)
    assert set(manifest["status"]) == {"ok"} and len(manifest) == 10
    with pytest.raises(V4DError, match="no part 'part_2'; val has part_0 to part_1"):
        source.download("val", "part_2")


@pytest.mark.parametrize(("source", "wrong"), [("flat", {"pth": "x"}), ("packed", {"videos": 1})])
def test_their_keys_are_checked_like_all_others(source, wrong):
    with pytest.raises(V4DError, match=rf"dataset\.{source}\.{next(iter(wrong))}"):
        settings_of(source, **wrong)


def test_a_source_that_is_known_leaves_no_trace_in_configs_of_others():
    document = {"name": "own", "dataset": {"name": "own", "source": "synthetic"}}
    before = config.config_sha(config.build(config.resolve(document)))
    settings_of("flat")
    assert "flat" in config.resolve(document)["dataset"]
    assert config.config_sha(config.build(config.resolve(document))) == before


def test_a_folder_without_videos_is_said_with_its_keys():
    with pytest.raises(V4DError, match=r"dataset\.flat \(path='nowhere'\): no videos in train"):
        write_annotations(settings_of("flat", path="nowhere").dataset)
