"""I3D-S and V4D networks. Imports torch and torchvision only."""

from v4d.models.conv4d import Conv4d, conv4d
from v4d.models.cost import gmac, parameter_count, stage_costs
from v4d.models.freezing import freeze, unfreeze
from v4d.models.imagenet import load_imagenet
from v4d.models.registry import ARCHS, PRESETS, create_model
from v4d.models.released import load_released
from v4d.models.v4d import VideoNet

__all__ = [
    "ARCHS",
    "PRESETS",
    "Conv4d",
    "VideoNet",
    "conv4d",
    "create_model",
    "freeze",
    "gmac",
    "load_imagenet",
    "load_released",
    "parameter_count",
    "stage_costs",
    "unfreeze",
]
