"""The names of `v4d.models` that need torch. Add a name here, and `from v4d.models import NAME` has it."""
# ruff: noqa: F401

from v4d.models.base import InputSpec, VideoModel
from v4d.models.conv4d import Conv4d
from v4d.models.cost import gmac, parameter_count, stage_costs
from v4d.models.freezing import freeze, unfreeze
from v4d.models.imagenet import load_imagenet
from v4d.models.released import load_released
from v4d.models.v4d import VideoNet
