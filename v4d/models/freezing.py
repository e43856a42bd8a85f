"""What a training stage holds fixed: `freeze`, and `unfreeze` to undo it.

Kinetics-400 is trained in three stages (section 4.1 of the paper): backbone alone, V4D with its 4D
kernels fixed at zero (that is TSN), everything.
"""

from v4d.errors import V4DError
from v4d.models.base import VideoModel


def freeze(model: VideoModel, what: str) -> None:
    """Hold a part of the network fixed (weights and statistics), also through later calls of `train()`.

    `what` is a name of `model.freezable()`; several may be frozen at once.

    Raises:
        V4DError: the network has no such part; the message names those that it has.
    """
    _check(model, what)
    model.before_freezing(what)
    model.frozen.add(what)
    _update(model)


def unfreeze(model: VideoModel, what: str) -> None:
    """Undo `freeze`; values stay as they are. What else is frozen remains so.

    Raises:
        V4DError: as `freeze`.
    """
    _check(model, what)
    model.frozen.discard(what)
    _update(model)


def frozen_names(model: VideoModel) -> set[str]:
    """The entries of the state dict that are frozen."""
    parts, names = model.freezable(), {id(module): name for name, module in model.named_modules()}
    frozen = (module for what in model.frozen for module in parts[what])
    return {f"{names[id(module)]}.{key}" for module in frozen for key in module.state_dict()}


def _update(model: VideoModel) -> None:
    """Make gradients and modes agree with `model.frozen`."""
    model.requires_grad_(True)
    parts = model.freezable()
    for module in (module for what in model.frozen for module in parts[what]):
        module.requires_grad_(False)
    model.train(model.training)


def _check(model: VideoModel, what: str) -> None:
    parts = model.freezable()
    if what not in parts:
        raise V4DError(f"cannot freeze {what!r}; choose from {', '.join(parts) or 'nothing'}")
