"""Where every file of `data/` and `results/` lies."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


class Below:
    """The place of a file or folder below the root of its kind."""

    def __init__(self, name: str):
        self.name = name

    def __get__(self, paths: Any, owner: type) -> Path:
        return paths.root / self.name


@dataclass(frozen=True)
class Paths:
    """The files below one folder."""

    root: Path

    def benchmark(self, *names: str) -> Path:
        """Snakemake's measurement of a job, by its stage and what else tells it from others."""
        return self.root.joinpath("benchmarks", *names[:-1], f"{names[-1]}.tsv")


class DatasetPaths(Paths):
    """The files of a data set, below `data/<dataset>`. A part is one archive, one tar of clips, one shard."""

    def annotations(self, split: str) -> Path:
        """What should exist: a row a video."""
        return self.root / "annotations" / f"{split}.parquet"

    classes = Below("annotations/classes.json")
    """Class names; the index is the class index."""

    def annotation_source(self, name: str) -> Path:
        """A file from which the annotations were read, as it was fetched."""
        return self.root / "annotations" / "source" / name

    archives = Below("archives")
    """Folder of downloaded archives, a folder a split."""

    def archive(self, split: str, part: str) -> Path:
        """The archive of a part."""
        return self.archives / split / f"{part}.tar.gz"

    def replacements(self, split: str) -> Path:
        """Videos that take the place of corrupted ones, a plain tar."""
        return self.archives / split / "replacements.tar"

    def gathered(self, split: str, part: str) -> Path:
        """Folder of videos that come one by one, and of which the archive of a part is packed."""
        return self.archives / split / part

    lock = Below("archives.lock.json")
    """Sizes and checksums of everything that was fetched."""

    def clips(self, split: str, part: str) -> Path:
        """The transcoded clips of a part, a WebDataset tar."""
        return self.root / "clips" / split / f"{part}.tar"

    def clips_ledger(self, split: str, part: str) -> Path:
        """What became of each video of a part in the clips stage."""
        return self.clips(split, part).with_suffix(".parquet")

    def shard(self, split: str, part: str) -> Path:
        """The frames of a part, one LMDB file."""
        return self.root / "frames" / split / f"{part}.lmdb"

    def frames_ledger(self, split: str, part: str) -> Path:
        """What became of each video of a part in the frames stage."""
        return self.shard(split, part).with_suffix(".parquet")

    def ledgers(self, stage: str) -> list[Path]:
        """The ledgers that a stage (`clips` or `frames`) has written so far, in order."""
        return sorted((self.root / stage).glob("*/*.parquet"))

    manifest = Below("manifest.parquet")
    """Every annotated video, and what became of it."""

    info = Below("dataset.json")
    """Counts, settings and fingerprint of the finished data set."""

    missing = Below("missing.csv")
    """Annotated videos that are in no archive."""

    quarantine = Below("quarantine.csv")
    """Videos that are there and not usable, with the decoder's own words."""

    def cost(self, stage: str, split: str, part: str) -> Path:
        """Videos, bytes and CPU time of a job."""
        return self.root / "measured" / stage / f"{split}-{part}.json"

    def costs(self, stage: str) -> list[Path]:
        """The costs of a stage's jobs so far, in order."""
        return sorted((self.root / "measured" / stage).glob("*.json"))

    def benchmarks(self, stage: str) -> list[Path]:
        """The measurements of a stage's jobs so far, in order."""
        return sorted((self.root / "benchmarks" / stage).glob("*/*.tsv"))


@dataclass(frozen=True)
class ResultsPaths(Paths):
    """The files of a config's results, below `results/<name>`; those of a model are of one seed."""

    seed_folder: str = ""
    """Folder below that of a model: "" for the first seed, else `seed_<seed>`."""

    config = Below("config.yaml")
    """The resolved config, which the stages read."""

    tracking = Below("tracking.json")
    """Says that database and experiment exist."""

    def model(self, model: str) -> Path:
        """Folder of a model's stages and of its test."""
        return self.root / model / self.seed_folder

    def stage(self, model: str, stage: str) -> Path:
        """Folder of a training stage."""
        return self.model(model) / stage

    def final_weights(self, model: str, stage: str) -> Path:
        """The weights that a training stage ends with."""
        return self.stage(model, stage) / "final.pt"

    def training_metrics(self, model: str, stage: str) -> Path:
        """Every epoch's numbers."""
        return self.stage(model, stage) / "metrics.json"

    def checkpoints(self, model: str, stage: str) -> Path:
        """Folder of a stage's states, from which a killed training goes on."""
        return self.stage(model, stage) / "checkpoints"

    def best_weights(self, model: str, stage: str) -> Path:
        """The state at the end of a stage's best validation epoch."""
        return self.checkpoints(model, stage) / "best.pt"

    def test(self, model: str) -> Path:
        """Folder of a model's test."""
        return self.model(model) / "test"

    def predictions(self, model: str) -> Path:
        """Every tested video's scores."""
        return self.test(model) / "predictions.parquet"

    def test_metrics(self, model: str) -> Path:
        """The numbers of a test."""
        return self.test(model) / "metrics.json"

    def run_state(self, run: str) -> Path:
        """The id of a run (`v4d`, `v4d/seed_1`) in the tracker, and how much the tracker has of it."""
        return self.root / run / "mlflow_run.json"

    comparison = Below("comparison.csv")
    """All models side by side."""

    comparison_text = Below("comparison.md")
    """The same for a reader."""

    published = Below("comparison_published.csv")
    """Our models and those that others published."""

    comparison_seeds = Below("comparison_seeds.csv")
    """A row for every seed of every model, where there are several."""

    comparison_tables = Below("comparison_tables.csv")
    """The tables that the config asks for."""

    significance = Below("significance.csv")
    """Which differences between models are real."""

    report = Below("report.html")
    """The page."""

    plots = Below("plots")
    """Folder of the plots that compare models."""
