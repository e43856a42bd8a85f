"""The keys at the top of a config, and the config as one typed object."""

import dataclasses
from pathlib import Path
from typing import Any

from v4d.config.data import NAME, ClipsConfig, DatasetConfig, FramesConfig
from v4d.config.fields import Block, List, key
from v4d.config.models import ModelConfig
from v4d.config.paths import ResultsPaths
from v4d.config.training import TestingConfig, TrackingConfig, TrainingConfig
from v4d.errors import V4DError


class RootKeys(Block):
    """A config file."""

    name: str = key(..., "Name of this experiment; results go to results/<name>.", pattern=NAME)
    seed: int = key(0, "Seed of initial weights, of shuffling and of augmentation.", ge=0)
    dataset: dict[str, Any] = key(..., "The data set: its name, its source, its splits.")
    clips: ClipsConfig = key(ClipsConfig, "How videos are transcoded.")
    frames: FramesConfig = key(FramesConfig, "How clips become JPEG frames.")
    models: dict[str, dict[str, Any] | None] = key(
        {}, "The models to train and test, by name; null removes one that an underlying config has."
    )
    training: TrainingConfig = key(TrainingConfig, "How models are trained.")
    testing: TestingConfig = key(TestingConfig, "How models are tested.")
    tracking: TrackingConfig = key(TrackingConfig, "Where metrics and artifacts go.")
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
    plugins: tuple[str, ...]
    dataset: DatasetConfig
    clips: ClipsConfig
    frames: FramesConfig
    models: dict[str, ModelConfig]
    testing: TestingConfig
    tracking: TrackingConfig
    document: dict[str, Any] = dataclasses.field(repr=False, compare=False)

    @property
    def results(self) -> Path:
        """Folder of everything that is made of this config."""
        return self.paths.root

    @property
    def paths(self) -> ResultsPaths:
        """Where its results lie."""
        return ResultsPaths(Path("results") / self.name)

    def model(self, name: str) -> ModelConfig:
        """A model by its name.

        Raises:
            V4DError: there is none; the message names those that there are.
        """
        if name not in self.models:
            names = ", ".join(map(repr, self.models)) or "none"
            raise V4DError(f"no model {name!r} in config {self.name!r}; it has {names}")
        return self.models[name]
