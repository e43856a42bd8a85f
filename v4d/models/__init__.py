"""Networks. Imports torch when a network is asked for, not before: a config is checked without it."""

import importlib
from typing import TYPE_CHECKING, Any

from v4d.models.registry import MODELS, Architecture, create_model

if TYPE_CHECKING:
    from v4d.models.base import InputSpec, VideoModel
    from v4d.models.conv4d import Conv4d
    from v4d.models.cost import gmac, parameter_count, stage_costs
    from v4d.models.freezing import freeze, unfreeze
    from v4d.models.imagenet import load_imagenet
    from v4d.models.released import load_released
    from v4d.models.v4d import VideoNet

_HOMES = {
    "base": ("InputSpec", "VideoModel"),
    "conv4d": ("Conv4d",),
    "cost": ("gmac", "parameter_count", "stage_costs"),
    "freezing": ("freeze", "unfreeze"),
    "imagenet": ("load_imagenet",),
    "released": ("load_released",),
    "v4d": ("VideoNet",),
}

__all__ = [
    "MODELS",
    "Architecture",
    "Conv4d",
    "InputSpec",
    "VideoModel",
    "VideoNet",
    "create_model",
    "freeze",
    "gmac",
    "load_imagenet",
    "load_released",
    "parameter_count",
    "stage_costs",
    "unfreeze",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for, with torch (PEP 562)."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
