"""The weights that a training stage starts from: `init` in the config."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from v4d.checkpoints import load_any
from v4d.config import Config, ModelConfig, StageConfig
from v4d.errors import V4DError
from v4d.models.base import VideoModel
from v4d.models.checkpoint import check_numbers, read_weights
from v4d.models.export import SUFFIX
from v4d.models.slow import slow_layout


def initial_weights(config: Config, model: ModelConfig, stage: StageConfig) -> str | Path:
    """What a stage's `init` names: "imagenet", "scratch" or a file, which is not opened here."""
    if stage.init == "previous":
        return config.paths.final_weights(model.name, model.before(stage)[-1].name)
    return stage.init if stage.init in ("imagenet", "scratch") else Path(stage.init)


def load_initial(model: VideoModel, source: str | Path, classes: Sequence[str]) -> str:
    """Start from "imagenet", or from a file: what `load_any` reads but an exported program, or a 2D network.

    The classifier is taken over where the file's classes are these `classes`; of what else may stay new
    (`VideoModel.new_in_init`: 4D blocks), what the file has in the same shape and did not hold at zero.

    Returns:
        What stays new, in words; empty where nothing does.

    Raises:
        V4DError: no such file, another weight is missing or has another shape, or the file's network saw
            pixels normalised otherwise.
    """
    if Path(source).suffix == SUFFIX:
        raise V4DError(f"init: {source} is an exported program; give the checkpoint that it was made from")
    may_be_new = model.new_in_init()
    if source == "imagenet" or _is_2d(Path(source)):
        model.load_image_weights(source)
        check_numbers(model, source)
        return " and ".join(dict.fromkeys(may_be_new.values()))
    finished = load_any(Path(source))
    theirs, ours = finished.model.input, model.input
    if (theirs.mean, theirs.std) != (ours.mean, ours.std):
        raise V4DError(
            f"init: {source} was trained on pixels of mean {theirs.mean} and deviation {theirs.std}, this "
            f"model is to see {ours.mean} and {ours.std}: see the key `normalisation` of its architecture"
        )
    frozen = finished.info.get("stage", {}).get("freeze", ())
    empty = tuple(prefix for what in frozen for prefix in model.emptied_by(what))
    weights = {n: v for n, v in finished.model.state_dict().items() if not n.startswith(empty)}
    if list(finished.classes) != list(classes):
        classifier = f"{finished.model.classifier}."
        weights = {name: value for name, value in weights.items() if not name.startswith(classifier)}
    own = model.state_dict()
    fitting = {n: v for n, v in weights.items() if n in own and own[n].shape == v.shape}
    left = [name for name in own if name not in fitting]
    wrong = next((name for name in left if not name.startswith(tuple(may_be_new))), None)
    if wrong:
        arch = model.spec["arch"]
        raise V4DError(f"init: {source} does not fit {arch}: {wrong} is missing or has another shape")
    model.load_state_dict(own | fitting)
    new = [words for prefix, words in may_be_new.items() if any(name.startswith(prefix) for name in left)]
    return " and ".join(dict.fromkeys(new))


def weights_digest(path: Path) -> str:
    """Tells the weights in a file from others, 16 hex digits; the same for the same weights in another file.

    Raises:
        V4DError: no such file, or no readable one.
    """
    digest = hashlib.sha256()
    for name, tensor in _tensors(read_weights(path)):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _tensors(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name, value.detach()
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield from _tensors(value[key], f"{name}.{key}")


def _is_2d(path: Path) -> bool:
    """Whether a file is neither ours nor another video network: a bare 2D network, if anything."""
    content = read_weights(path)
    if not isinstance(content, dict) or "architecture" in content or "identity" in content:
        return False
    if slow_layout(content):
        return False
    tensors = content.get("state_dict", content)
    return not any(str(name).endswith("new_fc.weight") for name in tensors)
