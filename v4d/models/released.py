"""The authors' released checkpoints, whichever layout their 4D kernels have.

A file holds `epoch`, `arch`, `best_prec1` and `state_dict`. The names are torchvision's, the convolution
weights 5-D; the depth of the network is read off them. A 4D kernel is `(O, C, S, P, 1)` where it ran as a 3D
convolution over (U, T, H*W) (Kinetics), or `(S, O, C, P, Q, R)` (Mini-Kinetics, ResNet-18).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from v4d.errors import V4DError
from v4d.models.checkpoint import first_difference
from v4d.models.registry import create_model
from v4d.models.state_dict_names import fitted, foreign_names, plain_state_dict
from v4d.models.v4d import VideoNet
from v4d.utils.files import read_json


def load_released(
    path_or_state_dict: str | Path | Mapping[str, Any], *, units: int, frames: int | None = None
) -> VideoNet:
    """A network in evaluation mode with the released weights; never unpickles code.

    `frames` are those of the training; None takes what the authors' networks had: 8 with 400 classes, else 4.

    Raises:
        V4DError: the file is none of weights alone, or a tensor is missing, unexpected or of another shape.
    """
    source = path_or_state_dict if isinstance(path_or_state_dict, str | Path) else "the state dict"
    tensors, prefix = plain_state_dict(path_or_state_dict)
    given = {name: _unpermuted(name, value, source) for name, value in tensors.items()}
    architecture = _architecture(given, prefix, source)
    if frames is None:
        frames = 8 if architecture["num_classes"] == 400 else 4
    model = cast(VideoNet, create_model(**architecture, units=units, frames=frames))
    names = foreign_names(model, with_blocks4d=True)
    wanted = {f"{prefix}base_model.{theirs}": ours for ours, theirs in names.items()}
    wanted |= {f"{prefix}new_fc.{kind}": f"fc.{kind}" for kind in ("weight", "bias")}
    difference = first_difference(wanted, given)
    if difference:
        raise V4DError(f"{source} is no released {model.spec['arch']}: {difference}")
    own = model.state_dict()
    own |= {wanted[name]: fitted(value, own[wanted[name]], name, source) for name, value in given.items()}
    model.load_state_dict(own)
    return model.eval()


@torch.no_grad()
def reorder_classes(model: VideoNet, order: list[int]) -> None:
    """Let output n be what output `order[n]` was."""
    model.fc.weight.copy_(model.fc.weight[order])
    model.fc.bias.copy_(model.fc.bias[order])


def class_order(converter: str | Path, num_classes: int) -> dict[int, int]:
    """A converter: Kinetics-400 index of a class, in ascending order -> the checkpoint's index of it.

    Raises:
        V4DError: the file does not map as many classes to each of the checkpoint's indices once.
    """
    table = read_json(converter)
    try:
        order = dict(sorted((int(ours), int(theirs)) for ours, theirs in table.items()))
    except (AttributeError, TypeError, ValueError) as error:
        raise V4DError(f"{converter} is no converter: an object of class index to class index") from error
    if sorted(order.values()) != list(range(num_classes)) or not order.keys() <= set(range(400)):
        raise V4DError(f"{converter} does not map {num_classes} classes of Kinetics-400 to the checkpoint's")
    return order


def _architecture(given: Mapping[str, Tensor], prefix: str, source: str | Path) -> dict[str, Any]:
    """The arguments of `create_model` that the tensors tell."""
    classifier = given.get(f"{prefix}new_fc.weight")
    if classifier is None:
        raise V4DError(f"{source} is no released V4D: missing {prefix}new_fc.weight")
    if classifier.dim() != 2:
        raise V4DError(
            f"{source}: {prefix}new_fc.weight has shape {tuple(classifier.shape)}, not two extents"
        )
    depth = "50" if f"{prefix}base_model.layer1.0.conv3.weight" in given else "18"
    kernels4d = [value for name, value in given.items() if name.endswith(".tsa.weight")]
    architecture = {"preset": "released", "num_classes": classifier.shape[0]}
    if not kernels4d:
        return architecture | {"arch": f"i3ds_resnet{depth}"}
    return architecture | {"arch": f"v4d_resnet{depth}", "kernel": kernels4d[0].shape[2:]}


def _unpermuted(name: str, value: Tensor, source: str | Path) -> Tensor:
    """A 4D kernel as `(O, C, S, P, Q, R)`, from either layout; anything else as it is."""
    if not name.endswith(".tsa.weight"):
        return value
    if value.dim() not in (5, 6):
        raise V4DError(f"{source}: {name} has shape {tuple(value.shape)}, which is no 4D kernel")
    return value.permute(1, 2, 0, 3, 4, 5) if value.dim() == 6 else value.unsqueeze(-1)
