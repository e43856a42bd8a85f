"""What a training stage holds fixed: `freeze`, and `unfreeze` to undo it.

Kinetics-400 is trained in three stages (section 4.1 of the paper): backbone alone, V4D with its 4D
kernels fixed at zero (that is TSN), everything.
"""

from torch import nn

from v4d.errors import V4DError

WHATS = ("blocks4d_zero", "backbone", "batchnorm")


def freeze(model: nn.Module, what: str) -> None:
    """Hold a part of the network fixed, also through later calls of `train()`.

    - `blocks4d_zero`: the residual 4D blocks, after making each the identity (kernel zero, batch norm new);
    - `backbone`: everything but the 4D blocks and the classifier, batch norm statistics included;
    - `batchnorm`: all batch norm layers of the backbone, statistics, weights and biases.

    Several may be frozen at once. Raises `V4DError` for any other name.
    """
    _check(what)
    if what == "blocks4d_zero":
        for block in model.blocks4d().values():
            block.reset_to_identity()
    model.frozen.add(what)
    _apply(model)


def unfreeze(model: nn.Module, what: str) -> None:
    """Undo `freeze`; values stay as they are. What else is frozen remains so."""
    _check(what)
    model.frozen.discard(what)
    _apply(model)


def frozen_modules(model: nn.Module) -> list[nn.Module]:
    """The modules that the names in `model.frozen` stand for, each once."""
    blocks4d = {id(module): module for block in model.blocks4d().values() for module in block.modules()}
    result = []
    for module in model.modules():
        parts = set()
        if id(module) in blocks4d:
            parts.add("blocks4d_zero")
        elif module is not model.fc:
            parts.add("backbone")
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                parts.add("batchnorm")
        if parts & model.frozen:
            result.append(module)
    return result


def _apply(model: nn.Module) -> None:
    """Make gradients and modes agree with `model.frozen`."""
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    for module in frozen_modules(model):
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
    model.train(model.training)


def _check(what: str) -> None:
    if what not in WHATS:
        raise V4DError(f"cannot freeze {what!r}; choose from {', '.join(WHATS)}")
