"""The networks that a config can name: `MODELS`. Imports no torch, so that a config is checked in no time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from v4d.config.fields import List, Number, key
from v4d.config.models import ArchOptions
from v4d.config.registry import MODELS
from v4d.errors import V4DError

__all__ = ["MODELS", "Architecture", "ResNetOptions"]

Stage = Literal["res2", "res3", "res4", "res5"]
Extent = Literal[1, 3, 5, 7]


@dataclass(frozen=True)
class Architecture:
    """A network that a config can name; an entry of `MODELS`."""

    build: Callable[..., Any] | str
    """Makes the network (a `VideoModel`) of `arch, num_classes, units, frames` and its options; or where that
    function is, as "module:function", imported when a network is made: torch takes a second."""
    Options: type[ArchOptions] = ArchOptions
    """Its keys beside the common ones."""
    freezable: tuple[str, ...] = ()
    """What `freeze` may name."""


class ResNetOptions(ArchOptions):
    """Keys of I3D-S, TSN and V4D."""

    preset: Literal["paper", "released"] = key(
        "released", "As the paper prints it, or as the authors released it."
    )
    blocks: dict[Stage, List[Annotated[int, Field(ge=1)]]] | None = key(
        None, "Positions of 4D blocks, counted from 1, as {res3: [2, 4]}; null for the preset's.", whole=True
    )
    kernel: List[Extent] = key(
        (3, 3, 1, 1), "Size of the 4D kernel over U, T, H, W; odd.", min_length=4, max_length=4
    )
    dropout: Number = key(0.5, "Dropout before the classifier.", ge=0, lt=1)

    def check(self, arch: str) -> None:
        """Refuse 4D blocks in a network that has none."""
        if self.blocks and not arch.startswith("v4d"):
            raise V4DError(f"blocks: {arch} has no 4D blocks")


MODELS |= {
    arch: Architecture(
        "v4d.models.factory:create_model", ResNetOptions, ("blocks4d_zero", "backbone", "batchnorm")
    )
    for arch in (
        "v4d_resnet18",
        "v4d_resnet50",
        "i3ds_resnet18",
        "i3ds_resnet50",
        "i3ds_resnet18pp",
        "v4d_tiny",
        "i3ds_tiny",
    )
}
