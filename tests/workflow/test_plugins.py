"""The seams are real: a network and a data set of this file alone, through the whole workflow."""

import json

import pandas
import pytest

from tests.support.broken_videos import sound
from tests.support.project import TINY, write_config
from tests.support.workflow import checkout, snakemake
from v4d import config

PLUGIN = '''
"""A data set of two classes in one folder a split, and a network that adds up colours over its units."""

from pathlib import Path

from torch import nn

from v4d.config import ArchOptions, SourceOptions, key
from v4d.datasets import SOURCES, FileSource
from v4d.models import MODELS, Architecture, VideoModel


class FlatOptions(SourceOptions):
    path: str = key("flat", "The folder.")


class Flat(FileSource):
    Options = FlatOptions

    def files(self, split):
        found = sorted(Path(self.options.path, split).glob("*.mp4"))
        return [(path, path.name.partition("_")[0]) for path in found]


SOURCES["flat"] = Flat


class Options(ArchOptions):
    width: int = key(8, "Channels.", ge=1)


class MeanColour(VideoModel):
    def __init__(self, *, width, **shape):
        super().__init__(width=width, **shape)
        self.conv = nn.Conv3d(3, width, 3, padding=1)
        self.fc = nn.Linear(width, self.num_classes)

    def forward(self, x_NUCTHW):
        features = self.conv(x_NUCTHW.flatten(0, 1)).relu().mean((2, 3, 4))
        return self.fc(features).unflatten(0, x_NUCTHW.shape[:2]).mean(1)


MODELS["mean_colour"] = Architecture("mine:MeanColour", Options)
'''


@pytest.mark.long
def test_a_network_and_a_data_set_of_ones_own_go_from_files_to_a_report(tmp_path):
    folder = checkout(tmp_path)
    (folder / "mine.py").write_text(PLUGIN)
    for split, count in (("train", 8), ("val", 4)):
        (folder / "videos" / split).mkdir(parents=True)
        for number in range(count):
            (folder / "videos" / split / f"{'ab'[number % 2]}_{number}.mp4").write_bytes(
                sound(24, "40x32", number)
            )
    document = config.merge(
        TINY,
        {
            "name": "own",
            "plugins": ["mine"],
            "models": {
                "colour": {"arch": "mean_colour", "units": 2, "frames": 2, "frame_stride": 3, "width": 4}
            },
            "training": {"epochs": 1, "batch_size": 4, "processes": 1},
            "testing": {"units": 4, "crops": 1, "orders": ["normal"]},
        },
    )
    document["dataset"] = {"name": "own", "source": "flat", "part_size": 6, "flat": {"path": "videos"}}
    del document["models"]["v4d"]
    write_config(folder, document, "flow.yaml")
    snakemake(folder)

    manifest = pandas.read_parquet(folder / "data/own/manifest.parquet")
    assert len(manifest) == 12 and set(manifest["status"]) == {"ok"} and set(manifest["label"]) == {"a", "b"}
    comparison = pandas.read_csv(folder / "results/own/comparison.csv")
    assert list(comparison["arch"]) == ["mean_colour"] and list(comparison["videos"]) == [4]
    tested = json.loads((folder / "results/own/colour/test/metrics.json").read_text())
    assert (tested["width"], tested["dataset"]) == (4, "own")
    assert "mean_colour" in (folder / "results/own/report.html").read_text()
    assert "Nothing to be done" in snakemake(folder, "-n")
