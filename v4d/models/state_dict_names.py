"""Names of our tensors in other people's files: torchvision's ResNets and the authors' released networks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from v4d.errors import V4DError
from v4d.models.checkpoint import read_weights
from v4d.models.registry import STAGES


def foreign_names(model: nn.Module, *, with_blocks4d: bool) -> dict[str, str]:
    """Our name -> theirs, for every tensor of a `VideoNet` except the classifier's.

    Both call the stages `layer1` to `layer4`. torchvision has no 4D blocks; in a released network they are
    further members of a stage, named `tsa`, and shift the numbers of the blocks behind them.
    """
    names = {
        f"stem.{key}": key.replace("conv.", "conv1.").replace("bn.", "bn1.")
        for key in model.get_submodule("stem").state_dict()
    }
    prefixes = {id(module): f"{name}." for name, module in model.named_modules()}
    for number, name in enumerate(STAGES, 1):
        stage = getattr(model, name)
        for index, block in enumerate(stage.steps() if with_blocks4d else stage.blocks):
            ours, theirs = prefixes[id(block)], f"layer{number}.{index}."
            # Only a 4D block has a layer `conv`; those of the backbone are `conv1` to `conv3`.
            names |= {ours + key: theirs + key.replace("conv.", "tsa.") for key in block.state_dict()}
    return names


def plain_state_dict(source: str | Path | Mapping[str, Any]) -> tuple[dict[str, Tensor], str]:
    """Tensors by name of a file or a mapping (what is under `state_dict`, where there is such a key).

    The second value is the prefix of all names: `module.` from `DataParallel`, or "".

    Raises:
        V4DError: there is no such file, or it holds more than weights, or other things.
    """
    content = read_weights(source) if isinstance(source, str | Path) else source
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(map(_is_weight, content.items())):
        raise V4DError(f"{source if isinstance(source, str | Path) else 'the mapping'} holds no state dict")
    prefix = "module." if content and all(name.startswith("module.") for name in content) else ""
    return dict(content), prefix


def _is_weight(item: tuple[Any, Any]) -> bool:
    name, value = item
    return isinstance(name, str) and isinstance(value, Tensor) and value.layout == torch.strided


def fitted(value: Tensor, own: Tensor, name: str, source: str | Path) -> Tensor:
    """A foreign tensor in the shape of ours, which may lack or have extents of 1 in the kernel.

    Raises:
        V4DError: it has another shape.
    """
    if _without_ones(value) != _without_ones(own):
        raise V4DError(f"{source}: {name} has shape {tuple(value.shape)}, not one like {tuple(own.shape)}")
    return value.reshape(own.shape).to(own.dtype)


def _without_ones(tensor: Tensor) -> tuple[int, ...]:
    return (*tensor.shape[:2], *(size for size in tensor.shape[2:] if size != 1))
