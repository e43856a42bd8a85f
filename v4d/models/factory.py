"""`create_model`: from a name to a finished network."""

from collections.abc import Mapping, Sequence

from v4d.errors import V4DError
from v4d.models.layers import BasicBlock, Bottleneck
from v4d.models.v4d import STAGES, Backbone, Preset, VideoNet

BACKBONES = {
    "resnet18": Backbone(BasicBlock, (2, 2, 2, 2)),
    "resnet50": Backbone(Bottleneck, (3, 4, 6, 3)),
    # For demonstrations on a CPU, trained from nothing on clips of about 56 pixels.
    "tiny": Backbone(BasicBlock, (1, 1, 1, 1), (16, 32, 64, 128), stem_size=3),
}
ARCHS = (
    "v4d_resnet18",
    "v4d_resnet50",
    "i3ds_resnet18",
    "i3ds_resnet50",
    "i3ds_resnet18pp",
    "v4d_tiny",
    "i3ds_tiny",
)
_PRESETS = {
    "paper": Preset(batch_norm=True, zero_init=True, unit_dropout=False),
    "released": Preset(batch_norm=False, zero_init=False, unit_dropout=True),
}
PRESETS = tuple(_PRESETS)
_PLACES = {
    "v4d_resnet18": {"res3": (2,), "res4": (2,)},
    # "every other residual block of res3 and res4" (paper); the released network has those of res3 only.
    "v4d_resnet50": {"res3": (2, 4), "res4": (2, 4, 6)},
    ("v4d_resnet50", "released"): {"res3": (2, 4)},
    "v4d_tiny": {"res3": (1,), "res4": (1,)},
    # R18++: one more residual convolution of 3x3x3 behind res4, which a 4D block of extent 1 over U is.
    "i3ds_resnet18pp": {"res4": (2,)},
}


def create_model(
    arch: str,
    *,
    num_classes: int,
    units: int,
    frames: int,
    preset: str = "released",
    blocks: Mapping[str, Sequence[int]] | None = None,
    kernel: Sequence[int] = (3, 3, 1, 1),
    dropout: float = 0.5,
) -> VideoNet:
    """A network with fresh weights: x `[N, U, C, T, H, W]`, normalised -> logits `[N, num_classes]`.

    `blocks` places the residual 4D blocks, as `{"res3": [2, 4], "res4": [2, 4, 6]}`: behind which residual
    blocks of a stage, counted from 1. None takes the preset's. `kernel` is their extent over (U, T, H, W).

    Raises:
        V4DError: an unknown name, a place that does not exist or an even kernel.
    """
    if arch not in ARCHS:
        raise V4DError(f"unknown arch {arch!r}; choose from {', '.join(ARCHS)}")
    if preset not in PRESETS:
        raise V4DError(f"unknown preset {preset!r}; choose from {', '.join(PRESETS)}")
    for name, value in {"num_classes": num_classes, "units": units, "frames": frames}.items():
        if value < 1:
            raise V4DError(f"{name} must be at least 1, not {value}")
    if not 0 <= dropout <= 1:
        raise V4DError(f"dropout must be from 0 to 1, not {dropout}")
    backbone = BACKBONES[arch.split("_")[1].removesuffix("pp")]
    places = _places(arch, preset, blocks, backbone)
    spec = {
        "arch": arch,
        "num_classes": int(num_classes),
        "units": int(units),
        "frames": int(frames),
        "preset": preset,
        "blocks": {stage: list(positions) for stage, positions in places.items()},
        "kernel": (1, 3, 3, 3) if arch == "i3ds_resnet18pp" else _checked_kernel(kernel),
        "dropout": float(dropout),
    }
    return VideoNet(backbone, _PRESETS[preset], places, spec)


def _places(arch: str, preset: str, blocks, backbone: Backbone) -> dict[str, tuple[int, ...]]:
    """The stages with 4D blocks and the positions there, checked against the backbone's depths."""
    default = _PLACES.get((arch, preset), _PLACES.get(arch, {}))
    if blocks is None:
        return default
    places = {}
    for stage, positions in blocks.items():
        if stage not in STAGES:
            raise V4DError(f"blocks: unknown stage {stage!r}; choose from {', '.join(STAGES)}")
        depth = backbone.depths[STAGES.index(stage)]
        for position in positions:
            if position not in range(1, depth + 1):
                raise V4DError(f"blocks: {arch} has no block {position} in {stage}; choose from 1 to {depth}")
        if len(set(positions)) < len(positions):
            raise V4DError(f"blocks: a position of {stage} is named twice in {list(positions)}")
        if positions:
            places[stage] = tuple(sorted(positions))
    if arch.startswith("i3ds") and places != default:
        raise V4DError(f"blocks: {arch} is a network without 4D blocks, {dict(blocks)} needs a v4d_* one")
    return places


def _checked_kernel(kernel: Sequence[int]) -> tuple[int, int, int, int]:
    if len(kernel) != 4 or any(extent < 1 or extent % 2 == 0 for extent in kernel):
        raise V4DError(f"kernel must be four odd extents over (U, T, H, W), not {tuple(kernel)}")
    return tuple(int(extent) for extent in kernel)
