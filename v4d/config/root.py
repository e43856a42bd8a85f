"""The keys at the top of a config, and the config as one typed object."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from v4d.config.data import NAME, ClipsConfig, DatasetConfig, FramesConfig
from v4d.config.fields import Block, List, Number, key
from v4d.config.models import ModelConfig
from v4d.config.paths import ResultsPaths
from v4d.config.training import TestingConfig, TrackingConfig, TrainingConfig
from v4d.errors import V4DError

Column = Literal[
    "top1", "top5", "top1_units_reversed", "top1_frames_reversed", "top1_std",
    "parameters", "gmac", "test_gmac", "test_seconds_per_video",
]  # fmt: skip
"""Columns of comparison.csv that a table may show."""


def _percent(figures: dict[str, float]) -> dict[str, float]:
    for column, value in figures.items():
        if column.startswith("top") and value > 100:
            raise ValueError(f"should have a {column} of 0 to 100, in percent")
    return figures


class RowConfig(Block):
    """A row of a table."""

    model: str = key(..., "A model of this config.", changes="nothing")
    label: str | None = key(None, "What the row is called; null for the model's name.", changes="nothing")
    published: Annotated[dict[Column, Annotated[Number, Field(ge=0)]], AfterValidator(_percent)] = key(
        {}, "What others published for it, by column; accuracies in percent, 0 to 100.", changes="nothing"
    )


class TableConfig(Block):
    """A table of `tables`."""

    title: str = key(..., "Stands above it.", changes="nothing")
    rows: List[RowConfig] = key(
        ..., "Its rows; the others are compared with the first.", changes="nothing", min_length=1
    )
    columns: List[Column] = key(
        ("top1", "top5"), "Columns of comparison.csv.", changes="nothing", min_length=1, unique=True
    )


class RootKeys(Block):
    """A config file."""

    name: str = key(..., "Name of this experiment; results go to results/<name>.", pattern=NAME)
    seed: int = key(0, "Seed of initial weights, of shuffling and of augmentation.", ge=0)
    seeds: List[Annotated[int, Field(ge=0)]] = key(
        (),
        "Train and test every model with each of these seeds, the first of which is `seed`; [] for it alone.",
        before=(),
        unique=True,
    )
    dataset: dict[str, Any] = key(..., "The data set: its name, its source, its splits.")
    clips: ClipsConfig = key(ClipsConfig, "How videos are transcoded.")
    frames: FramesConfig = key(FramesConfig, "How clips become JPEG frames.")
    models: dict[str, dict[str, Any] | None] = key(
        {}, "The models to train and test, by name; null removes one that an underlying config has."
    )
    training: TrainingConfig = key(TrainingConfig, "How models are trained.")
    testing: TestingConfig = key(TestingConfig, "How models are tested.")
    tracking: TrackingConfig = key(TrackingConfig, "Where metrics and artifacts go.")
    tables: List[TableConfig] = key(
        (),
        "Tables of comparison and report; they decide nothing else.",
        before=(),
        changes="nothing",
    )
    plugins: List[str] = key(
        (),
        "Modules to import before the config is checked: they add data sets (SOURCES) and networks (MODELS).",
        before=(),
    )


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole config; `document` is the resolved mapping that it was built from."""

    name: str
    seed: int
    """Of this training and this test."""
    seeds: tuple[int, ...]
    """Of all trainings of a model; at least one."""
    plugins: tuple[str, ...]
    dataset: DatasetConfig
    clips: ClipsConfig
    frames: FramesConfig
    models: dict[str, ModelConfig]
    testing: TestingConfig
    tracking: TrackingConfig
    tables: tuple[TableConfig, ...]
    document: dict[str, Any] = dataclasses.field(repr=False, compare=False)

    @property
    def results(self) -> Path:
        """Folder of everything that is made of this config."""
        return self.paths.root

    @property
    def paths(self) -> ResultsPaths:
        """Where its results lie."""
        return ResultsPaths(Path("results") / self.name, self.seed_folder)

    @property
    def seed_folder(self) -> str:
        """What tells this seed's results and runs from those of the first seed, which have nothing: ""."""
        return "" if self.seed == self.seeds[0] else f"seed_{self.seed}"

    def run_name(self, model: str) -> str:
        """A model trained with this seed: `v4d`, or `v4d/seed_1`."""
        return "/".join(filter(None, [model, self.seed_folder]))

    def runs(self, model: str) -> list[str]:
        """The names of a model's runs, a seed each; a model that is not trained has one."""
        seeds = self.seeds if self.models[model].checkpoint is None else self.seeds[:1]
        return [dataclasses.replace(self, seed=seed).run_name(model) for seed in seeds]

    @property
    def every_run(self) -> list[str]:
        """The names of all runs, those of a model together."""
        return [run for model in self.models for run in self.runs(model)]

    def run(self, name: str) -> "tuple[Config, ModelConfig]":
        """The model of a run, and the config with the run's seed and the model's own `testing`.

        Raises:
            V4DError: there is no such model, or no such seed.
        """
        model = self.model(name.partition("/")[0])
        runs = self.runs(model.name)
        if name not in runs:
            raise V4DError(f"no run {name!r} in config {self.name!r}; it has {', '.join(map(repr, runs))}")
        return dataclasses.replace(self, seed=self.seeds[runs.index(name)], testing=model.testing), model

    def model(self, name: str) -> ModelConfig:
        """A model by its name.

        Raises:
            V4DError: there is none; the message names those that there are.
        """
        if name not in self.models:
            names = ", ".join(map(repr, self.models)) or "none"
            raise V4DError(f"no model {name!r} in config {self.name!r}; it has {names}")
        return self.models[name]
