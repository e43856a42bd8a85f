"""The networks that a config can name, `MODELS`, and `create_model`, which makes one.

Imports no torch before a network is made: a config is checked in no time.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field

from v4d.config import validate
from v4d.config.fields import Block, List, Number, key
from v4d.config.models import ArchOptions, StageConfig
from v4d.config.registry import MODELS, fill
from v4d.errors import V4DError

if TYPE_CHECKING:
    from v4d.models.base import VideoModel

__all__ = ["MODELS", "Architecture", "ResNetOptions", "create_model"]

Stage = Literal["res2", "res3", "res4", "res5"]
STAGES: tuple[Stage, ...] = ("res2", "res3", "res4", "res5")
Places = Mapping[Any, Sequence[int]]
"""Behind which residual blocks of a stage a 4D block stands, counted from 1."""


@dataclass(frozen=True)
class Architecture:
    """A network that a config can name; an entry of `MODELS`."""

    build: "Callable[..., VideoModel] | str"
    """Makes the network of `arch`, `num_classes`, `units`, `frames` and its options; or where that callable
    is, as "module:name", which is imported when a network is made: torch takes a second."""
    Options: type[ArchOptions] = ArchOptions
    """Its keys beside the common ones."""
    freezable: tuple[str, ...] = ()
    """What `freeze` may name: the keys of the network's `freezable()`."""


def create_model(arch: str, *, num_classes: int, units: int, frames: int, **options: Any) -> "VideoModel":
    """A network with fresh weights: x `[N, U, C, T, H, W]`, normalised -> logits `[N, num_classes]`.

    Args:
        units: units of a video in training (U).
        frames: frames of a unit (T).
        options: keys of the architecture (`MODELS[arch].Options`) that differ from their defaults. For V4D:
            `preset`, `blocks`, `kernel`, `dropout`, `normalisation`.

    Raises:
        V4DError: an unknown name, or a value that the architecture does not take.
    """
    if arch not in MODELS:
        fill()  # installed plugins are imported by now
    if arch not in MODELS:
        raise V4DError(f"unknown arch {arch!r}; choose from {', '.join(MODELS)}")
    entry: Architecture = MODELS[arch]
    for name, value in {"num_classes": num_classes, "units": units, "frames": frames}.items():
        if value < 1:
            raise V4DError(f"{name} must be at least 1, not {value}")
    try:
        chosen = validate(options, entry.Options, "")
    except V4DError as error:
        raise V4DError(f"{arch}: {str(error).removeprefix('config: ')}") from None
    chosen.check(arch)
    build = entry.build
    if isinstance(build, str):
        module, _, attribute = build.partition(":")
        build = getattr(importlib.import_module(module), attribute)
    values = {name: getattr(chosen, name) for name in entry.Options.model_fields}
    model = build(arch=arch, num_classes=int(num_classes), units=int(units), frames=int(frames), **values)
    if model.input.frames not in (None, frames):
        raise V4DError(f"frames {frames}: {arch} takes units of {model.input.frames} frames only")
    return model


@dataclass(frozen=True)
class ResNet:
    """A network of the paper, as far as a config is checked by it."""

    backbone: str
    """A key of `DEPTHS`."""
    places: Places = field(default_factory=dict)
    """Its 4D blocks, where the config does not place them."""
    released_places: Places | None = None
    """The same with the preset "released", where the authors' code differs from the paper."""
    kernel: tuple[int, ...] | None = None
    """Extent of its 4D kernels over U, T, H, W that no config changes; None: the config's."""
    movable: bool = False
    """Whether a config may place 4D blocks."""


DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3), "tiny": (1, 1, 1, 1)}
"""Residual blocks in res2 to res5, by backbone."""
RESNETS = {
    "v4d_resnet18": ResNet("resnet18", {"res3": (2,), "res4": (2,)}, movable=True),
    # "every other residual block of res3 and res4" (paper); the released network has those of res3 only.
    "v4d_resnet50": ResNet("resnet50", {"res3": (2, 4), "res4": (2, 4, 6)}, {"res3": (2, 4)}, movable=True),
    "i3ds_resnet18": ResNet("resnet18"),
    "i3ds_resnet50": ResNet("resnet50"),
    # R18++ has one more residual convolution of 3x3x3 behind res4: a 4D block of extent 1 over U.
    "i3ds_resnet18pp": ResNet("resnet18", {"res4": (2,)}, kernel=(1, 3, 3, 3)),
    "v4d_tiny": ResNet("tiny", {"res3": (1,), "res4": (1,)}, movable=True),
    "i3ds_tiny": ResNet("tiny"),
}


def _four_odd(kernel: tuple[int, ...]) -> tuple[int, ...]:
    if len(kernel) != 4 or any(extent < 1 or extent % 2 == 0 for extent in kernel):
        raise ValueError("should be four odd extents over U, T, H, W")
    return kernel


Count = Annotated[int, Field(json_schema_extra={"minimum": 1})]
"""From 1 on; the checks below say so with the choices."""


class Start4d(Block):
    """How 4D blocks start: from nothing, and where a stage trains what the one before held at zero."""

    kernel: Literal["random", "zero"] = key("random", "PyTorch's own start, or zero.")
    norm_weight: Number = key(1.0, "Weight of the batch norm behind the kernel.", ge=0, le=1)
    norm_lr_factor: Number = key(1.0, "Learning rate of that weight as a multiple.", gt=0)


class ResNetOptions(ArchOptions):
    """Keys of I3D-S, TSN and V4D."""

    preset: Literal["paper", "released"] = key(
        "released", "As the paper prints it, or as the authors released it."
    )
    blocks: dict[Stage, List[Count]] | None = key(
        None, "Positions of 4D blocks, counted from 1, as {res3: [2, 4]}; null for the preset's.", whole=True
    )
    kernel: Annotated[List[Count], AfterValidator(_four_odd)] = key(
        (3, 3, 1, 1), "Size of the 4D kernel over U, T, H, W; odd.", min_length=4, max_length=4
    )
    dropout: Number = key(0.5, "Dropout before the classifier.", ge=0, lt=1)
    normalisation: Literal["imagenet", "pytorchvideo"] = key(
        "imagenet",
        "Mean and deviation of pixels: ImageNet's, or 0.45 and 0.225, for what starts from weights of "
        "pytorchvideo.",
        before="imagenet",
    )
    start4d: Start4d | None = key(
        None,
        "How 4D blocks start, as {kernel: zero or random, norm_weight: 0 to 1, norm_lr_factor}; null for the "
        "preset's: {kernel: random, norm_weight: 1, norm_lr_factor: 1} in both.",
        before=None,
    )

    def check(self, arch: str) -> None:
        """Refuse places of 4D blocks, and settings of their batch norm, that the network does not have."""
        places_of_blocks(arch, self.preset, self.blocks)
        start = self.start4d or Start4d()
        if self.preset == "released" and (start.norm_weight, start.norm_lr_factor) != (1, 1):
            raise V4DError(
                "start4d: norm_weight and norm_lr_factor need preset paper: released has no batch norm"
            )

    def check_init(self, arch: str, init: str, before: StageConfig | None) -> None:
        """Refuse ImageNet weights that do not exist, and weights of another backbone or normalisation."""
        backbone = RESNETS[arch].backbone
        if init == "imagenet" and backbone == "tiny":
            raise V4DError(f"init: there are no ImageNet weights for {arch}: set scratch, or a file")
        if before is None or before.arch not in RESNETS:  # a plugin's: only its weights tell
            return
        if RESNETS[before.arch].backbone != backbone:
            raise V4DError(
                f"init: {arch} cannot start from the stage before, {before.name!r}, which trains "
                f"{before.arch}: set an arch of {backbone} there, or init scratch, imagenet or a file"
            )
        if (theirs := before.options["normalisation"]) != self.normalisation:
            raise V4DError(
                f"init: normalisation {self.normalisation!r} is another than {theirs!r} of the stage before, "
                f"{before.name!r}: set the same"
            )

    def idle_keys(self, arch: str) -> tuple[str, ...]:
        """What says how 4D blocks are and start, in a network without them."""
        if RESNETS[arch].kernel is None and places_of_blocks(arch, self.preset, self.blocks):
            return ()
        default = ResNetOptions()
        return tuple(name for name in ("kernel", "start4d") if getattr(self, name) != getattr(default, name))

    def form(self, arch: str) -> dict[str, Any]:
        """Preset, places and kernel of 4D blocks; nothing where there are none."""
        places = places_of_blocks(arch, self.preset, self.blocks)
        kernel = list(RESNETS[arch].kernel or self.kernel)
        return {"preset": self.preset, "blocks": places, "kernel": kernel} if places else {}


def places_of_blocks(arch: str, preset: str, blocks: Places | None) -> dict[str, list[int]]:
    """The stages with 4D blocks and the positions there, in order: as given, or the preset's.

    Raises:
        V4DError: a position that the backbone does not have, one that is named twice, or a network without
            4D blocks of its own.
    """
    network = RESNETS[arch]
    default: Places = network.places
    if preset == "released" and network.released_places is not None:
        default = network.released_places
    depths: dict[str, int] = dict(zip(STAGES, DEPTHS[network.backbone], strict=True))
    chosen = default if blocks is None else blocks
    for stage, positions in chosen.items():
        for position in positions:
            if position not in range(1, depths[stage] + 1):
                raise V4DError(
                    f"blocks: {arch} has no block {position} in {stage}; choose from 1 to {depths[stage]}"
                )
        if len(set(positions)) < len(positions):
            raise V4DError(f"blocks: a position of {stage} is named twice in {list(positions)}")
    places = {stage: sorted(positions) for stage, positions in chosen.items() if positions}
    if not network.movable and places != {stage: list(positions) for stage, positions in default.items()}:
        raise V4DError(f"blocks: {arch} is a network without 4D blocks, {dict(chosen)} needs a v4d_* one")
    return places


MODELS |= {
    arch: Architecture(
        "v4d.models.v4d:VideoNet",
        ResNetOptions,
        ("backbone", "batchnorm") if network.kernel else ("blocks4d_zero", "backbone", "batchnorm"),
    )
    for arch, network in RESNETS.items()
}
