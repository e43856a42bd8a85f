"""The weights that a training stage starts from: `init` in the config."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from v4d.checkpoints import load_any
from v4d.config import Config, ModelConfig, StageConfig
from v4d.errors import V4DError
from v4d.models.checkpoint import read_weights
from v4d.models.imagenet import load_imagenet
from v4d.models.v4d import VideoNet


def initial_weights(config: Config, model: ModelConfig, stage: StageConfig) -> str | Path:
    """What a stage's `init` names: "imagenet", "scratch" or a file, which is not opened here."""
    if stage.init == "previous":
        before = model.stages[model.stages.index(stage) - 1]
        return config.results / model.name / before.name / "final.pt"
    return stage.init if stage.init in ("imagenet", "scratch") else Path(stage.init)


def load_initial(model: VideoNet, source: str | Path, classes: Sequence[str]) -> str:
    """Start from "imagenet", or from a file: a finished model, a checkpoint, a released one, or a 2D ResNet.

    The classifier is taken over where the file's classes are these `classes`, a 4D block where the file has
    it with the same kernel; else they stay as they are made.

    Returns:
        What stays new, in words; empty where nothing does.

    Raises:
        V4DError: no such file, or a weight of the backbone is missing or has another shape.
    """
    if source == "imagenet" or _is_2d(Path(source)):
        load_imagenet(model, source)
        return "classifier" + (" and 4D blocks" if model.blocks4d() else "")
    finished = load_any(Path(source))
    if not isinstance(finished.model, VideoNet):
        raise V4DError(f"init: {source} is an exported program; give the checkpoint that it was made from")
    weights = finished.model.state_dict()
    if list(finished.classes) != list(classes):
        weights = {name: value for name, value in weights.items() if not name.startswith("fc.")}
    own = model.state_dict()
    fitting = {n: v for n, v in weights.items() if n in own and own[n].shape == v.shape}
    left = [name for name in own if name not in fitting]
    wrong = next((name for name in left if "blocks4d" not in name and not name.startswith("fc.")), None)
    if wrong:
        raise V4DError(
            f"init: {source} does not fit {model.spec['arch']}: {wrong} is missing or has another shape"
        )
    model.load_state_dict(own | fitting)
    parts = {"fc.": "classifier", "blocks4d": "4D blocks"}
    return " and ".join(words for part, words in parts.items() if any(part in name for name in left))


def weights_digest(path: Path) -> str:
    """Tells a file's weights from others, 16 hex digits: written anew, the same weights have the same.

    Raises:
        V4DError: no such file, or no readable one.
    """
    digest = hashlib.sha256()
    for name, tensor in _tensors(read_weights(path)):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _tensors(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name, value.detach()
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield from _tensors(value[key], f"{name}.{key}")


def _is_2d(path: Path) -> bool:
    """Whether a file is neither ours nor the authors': a bare ResNet, if anything."""
    if path.suffix == ".pt2":
        return False
    content = read_weights(path)
    if not isinstance(content, dict) or "architecture" in content or "identity" in content:
        return False
    tensors = content.get("state_dict", content)
    return not any(str(name).endswith("new_fc.weight") for name in tensors)
