"""ImageNet weights of torchvision's 2D ResNets, inflated to I3D-S (Carreira & Zisserman, 2017).

A 2D kernel is repeated along time and divided by the number of repetitions, so that a clip without motion
gives the 2D network's activations wherever no kernel reaches beyond its first or last frame.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from v4d.errors import V4DError
from v4d.models.base import VideoModel
from v4d.models.checkpoint import first_difference
from v4d.models.registry import RESNETS
from v4d.models.state_dict_names import fitted, foreign_names, plain_state_dict


def load_imagenet(model: VideoModel, source: str | Path | Mapping[str, Any] = "imagenet") -> None:
    """Put ImageNet weights into a network's backbone; its 4D blocks and classifier stay as they are.

    `source` is "imagenet" (torchvision's IMAGENET1K_V1, kept in its own cache), or a file with the state dict
    of a torchvision ResNet, or such a state dict.

    Raises:
        V4DError: no weights for this architecture, no network, no such file, or tensors that do not fit.
    """
    content = _download(model) if source == "imagenet" else source
    given, prefix = plain_state_dict(content)
    label = source if isinstance(source, str | Path) else "the state dict"
    names = foreign_names(model, with_blocks4d=False)
    wanted = {prefix + theirs: ours for ours, theirs in names.items()}
    given = {name: value for name, value in given.items() if not name.startswith(f"{prefix}fc.")}
    difference = first_difference(wanted, given)
    if difference:
        raise V4DError(f"{label} holds no 2D network of {model.spec['arch']}: {difference}")
    own = model.state_dict()
    for name, value in given.items():
        ours = wanted[name]
        own[ours] = fitted(_inflated(value, own[ours]), own[ours], name, label)
    model.load_state_dict(own)


def _inflated(value: Tensor, own: Tensor) -> Tensor:
    """A 2D kernel `[O, C, h, w]` in the extents of ours; anything else as it is."""
    if value.dim() != 4:
        return value
    times = own[0, 0].numel() // value[0, 0].numel()
    return value.unsqueeze(2).expand(-1, -1, times, -1, -1) / times


def _download(model: VideoModel) -> Mapping[str, Tensor]:
    depth = RESNETS[model.spec["arch"]].backbone
    if depth not in ("resnet18", "resnet50"):
        raise V4DError(f"there are no ImageNet weights for {model.spec['arch']}; train it from scratch")
    import torchvision  # imported here: it takes a second

    weights = torchvision.models.get_model_weights(depth).IMAGENET1K_V1
    try:
        return weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except Exception as error:  # URLError, a wrong hash, all errors of torch's readers
        cache = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
        raise V4DError(
            f"cannot get {weights.url}: {error}; put a good file at {cache}, or give its path"
        ) from error
