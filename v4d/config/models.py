"""Keys of a model and of its training stages; an architecture adds its own (`ArchOptions`)."""

import dataclasses
import functools
from typing import Annotated, Any

from pydantic import Field

from v4d.config import registry
from v4d.config.data import SPLIT
from v4d.config.fields import Block, List, key, plain
from v4d.config.training import TestingConfig, TrainingConfig
from v4d.errors import V4DError

STAGE_KEYS = ("arch", "preset", "units", "frames", "frame_stride", "blocks", "kernel", "dropout", "init")
"""The order of a stage's keys in rule params. Snakemake compares them as text: another order trains anew.
Further keys of an architecture follow."""


class ArchOptions(Block):
    """Keys that an architecture has beside the common ones; one without any takes this class as it is."""

    def check(self, arch: str) -> None:
        """Refuse what no single key can tell.

        Raises:
            V4DError: the key and what is wrong with it, as the rest of `models.<model>.`
        """

    def check_init(self, arch: str, init: str, before: "StageConfig | None") -> None:
        """Refuse a start that the keys alone tell to be none; `before` is the stage of `init: previous`.

        Raises:
            V4DError: as `check`.
        """

    def idle_keys(self, arch: str) -> tuple[str, ...]:
        """Keys that are set and change nothing in this network."""
        return ()

    def form(self, arch: str) -> dict[str, Any]:
        """What two networks of this architecture differ in where a file of the one does not fit the other."""
        return {name: value for name, value in plain(self).items() if name != "dropout"}


class ModelKeys(Block):
    """`models.<model>`."""

    arch: str = key(..., "The architecture.")
    units: int = key(..., "Action units of a training video (U).", ge=1, le=64)
    frames: int = key(..., "Frames of a unit (T).", ge=1, le=256)
    frame_stride: int = key(8, "Source frames from one frame of a unit to the next.", ge=1)
    init: str = key(
        "scratch",
        "imagenet (inflated), scratch, or a file (a finished model, a released checkpoint, SLOW_8x8_R50 of "
        "pytorchvideo, SlowOnly ResNet-50 of MMAction2, a 2D ResNet of torchvision).",
    )
    checkpoint: str | None = key(None, "A file with finished weights, to test without training; null trains.")
    training: dict[str, Any] = key({}, "Settings of this model that differ from those under training.")
    testing: dict[str, Any] = key({}, "How this model is tested, where that differs from testing.", before={})
    stages: Annotated[list[dict[str, Any]], Field(min_length=1)] = key(
        [{"name": "main"}],
        "Training stages in order, each with what differs from the model's own settings: any of its keys, "
        "and name, freeze, training, init: previous.",
    )


class StageConfig(Block):
    """One training stage of a model, whole: its network, its data and its schedule.

    The keys of its architecture (`ArchOptions`) are attributes as well; `options` has them together.
    """

    name: str = key(..., "Name of the stage, and of its folder.", pattern=SPLIT)
    arch: str = key(..., "The architecture.")
    units: int = key(..., "Action units of a training video (U).", ge=1, le=64)
    frames: int = key(..., "Frames of a unit (T).", ge=1, le=256)
    frame_stride: int = key(..., "Source frames from one frame of a unit to the next.", ge=1)
    init: str = key(..., "imagenet, scratch, previous (the stage before), or a file.")
    freeze: List[str] = key(
        (), "Parts that are not trained; which there are is the architecture's.", unique=True
    )
    training: TrainingConfig = key(TrainingConfig, "The training settings of this stage.")

    @property
    def options(self) -> dict[str, Any]:
        """The keys of its architecture, as `create_model` takes them."""
        return {name: getattr(self, name) for name in architecture(self.arch).Options.model_fields}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A model of a config, resolved."""

    name: str
    checkpoint: str | None
    """File with finished weights; None where the model is trained."""
    stages: tuple[StageConfig, ...]
    """In the order of training; at least one."""
    testing: TestingConfig
    """How it is tested."""

    @property
    def final(self) -> StageConfig:
        """The last stage: what is tested."""
        return self.stages[-1]

    def stage(self, name: str) -> StageConfig:
        """A stage by its name.

        Raises:
            V4DError: there is none; the message names those that there are.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        names = ", ".join(repr(stage.name) for stage in self.stages)
        raise V4DError(f"model {self.name!r} has no stage {name!r}; it has {names}")

    def before(self, stage: StageConfig) -> tuple[StageConfig, ...]:
        """The stages that are trained before a stage."""
        return self.stages[: self.stages.index(stage)]


def architecture(arch: Any, where: str = "models") -> Any:
    """The registered architecture of a name.

    Raises:
        V4DError: there is none; the message names those that there are.
    """
    return registry.named(registry.MODELS, arch, f"{where}.arch")


@functools.cache
def with_options(base: type[Block], options: type[ArchOptions]) -> type[Block]:
    """The keys of a model or of a stage together with those of its architecture."""
    return type(base.__name__, (base, options), {"__module__": __name__, "__doc__": base.__doc__})
