"""The authors' released checkpoints, whichever layout their 4D kernels have (section 10 of the facts).

A file holds `epoch`, `arch`, `best_prec1` and `state_dict`. Its tensors are torchvision's, with 5-D convolution
weights; what stages and 4D blocks a network has is read off them. A 4D kernel is `(O, C, S, P, 1)` where it was
run as a 3D convolution over (U, T, H*W) (Kinetics), or `(S, O, C, P, Q, R)` (Mini-Kinetics, ResNet-18).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from v4d.errors import V4DError
from v4d.files import read_json
from v4d.models.factory import create_model
from v4d.models.naming import first_difference, fitted, foreign_names, plain_state_dict
from v4d.models.network import STAGES, VideoNet


def load_released(
    path_or_state_dict: str | Path | Mapping[str, Any],
    *,
    units: int,
    frames: int | None = None,
    converter: str | Path | None = None,
) -> VideoNet:
    """A network in evaluation mode with the released weights; never unpickles code.

    `frames` is that of the training; None takes what the authors' networks had: 8 with 400 classes, else 4.
    `converter` is a JSON file that maps a Kinetics-400 class index to the checkpoint's: then the classes
    are put into the order of Kinetics-400.

    Raises:
        V4DError: the file is none of weights alone, or a tensor is missing, unexpected or of another shape.
    """
    source = path_or_state_dict if isinstance(path_or_state_dict, str | Path) else "the state dict"
    given = {name: _unpermuted(name, value) for name, value in plain_state_dict(path_or_state_dict).items()}
    model = create_model(**_architecture(given, source), units=units, frames=frames or _trained_frames(given))
    names = foreign_names(model, with_blocks4d=True)
    wanted = {f"base_model.{theirs}": ours for ours, theirs in names.items()}
    wanted |= {"new_fc.weight": "fc.weight", "new_fc.bias": "fc.bias"}
    difference = first_difference(wanted, given)
    if difference:
        raise V4DError(f"{source} is no released {model.spec['arch']}: {difference}")
    own = model.state_dict()
    own |= {wanted[name]: fitted(value, own[wanted[name]], name, source) for name, value in given.items()}
    if converter is not None:
        order = class_order(converter, model.num_classes)
        own |= {name: own[name][order] for name in ("fc.weight", "fc.bias")}
    model.load_state_dict(own)
    return model.eval()


def class_order(converter: str | Path, num_classes: int) -> list[int]:
    """The checkpoint's index of every class, in the order of the Kinetics-400 indices.

    Raises:
        V4DError: the file does not map as many classes to each of the checkpoint's indices once.
    """
    table = read_json(converter)
    try:
        order = [int(theirs) for _, theirs in sorted((int(ours), theirs) for ours, theirs in table.items())]
    except (AttributeError, TypeError, ValueError) as error:
        raise V4DError(f"{converter} is no converter: an object of class index to class index") from error
    if sorted(order) != list(range(num_classes)):
        raise V4DError(f"{converter} does not map {len(order)} classes onto the checkpoint's {num_classes}")
    return order


def _architecture(given: Mapping[str, Tensor], source: str | Path) -> dict[str, Any]:
    """The arguments of `create_model` that the tensors tell."""
    if "new_fc.weight" not in given:
        raise V4DError(f"{source} is no released V4D: missing new_fc.weight")
    members: dict[str, dict[int, bool]] = {}  # stage -> number in the stage -> is it a 4D block
    kernels = set()
    for name, value in given.items():
        match = re.match(r"base_model\.layer([1-4])\.(\d+)\.(tsa\.weight)?", name)
        if match:
            members.setdefault(STAGES[int(match[1]) - 1], {})[int(match[2])] = bool(match[3])
            if match[3]:
                kernels.add(tuple(value.shape[2:]))
    if len(kernels) > 1:
        raise V4DError(f"{source}: 4D kernels of different sizes: {sorted(kernels)}")
    blocks = {
        stage: [
            number - index for index, number in enumerate(sorted(n for n, is_4d in kinds.items() if is_4d))
        ]
        for stage, kinds in members.items()
    }
    depth = "50" if "base_model.layer1.0.conv3.weight" in given else "18"
    return {
        "arch": f"v4d_resnet{depth}" if kernels else f"i3ds_resnet{depth}",
        "num_classes": given["new_fc.weight"].shape[0],
        "preset": "released",
        "blocks": blocks,
        "kernel": kernels.pop() if kernels else (3, 3, 1, 1),
    }


def _trained_frames(given: Mapping[str, Tensor]) -> int:
    return 8 if given["new_fc.weight"].shape[0] == 400 else 4


def _unpermuted(name: str, value: Tensor) -> Tensor:
    """A 4D kernel as `(O, C, S, P, Q, R)`, from either layout; anything else as it is."""
    if not name.endswith(".tsa.weight"):
        return value
    if value.dim() == 6:
        return value.permute(1, 2, 0, 3, 4, 5)
    return value.unsqueeze(-1)
