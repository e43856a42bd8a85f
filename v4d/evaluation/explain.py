"""Where and when a network looks: its answer taken apart over H, W, T and U.

Legend: U units, T frames of a unit, h, w the last stage's size, K classes.

Behind the last stage there is nothing but a mean over H, W, T and U and a linear classifier. So a class's
logit is a sum of contributions of places, gradient times activation (Grad-CAM before its ReLU), plus the
classifier's bias; and it is the mean over units of what the classifier says to each unit's own mean. Nothing
is approximated. What a unit's features know of other units they know through the 4D blocks.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from v4d.errors import V4DError
from v4d.evaluation.algorithm1 import unit_sections
from v4d.models import VideoNet


@dataclass(frozen=True)
class ActivationMaps:
    """A class's logit, place by place: `contributions.sum() + bias == logit`."""

    contributions: Tensor  # [U, T, h, w]
    bias: float
    logit: float

    @property
    def units(self) -> Tensor:
        """The share of each unit, `[U]`."""
        return self.contributions.sum((1, 2, 3))


def activation_maps(network: nn.Module, x_NUCTHW: Tensor, class_index: int) -> ActivationMaps:
    """Take one class's logit of one video (`[1, U, C, T, H, W]`, U the network's own) apart.

    Raises:
        V4DError: an exported program, which has no gradients.
    """
    network = _with_gradients(network)
    units, frames = x_NUCTHW.shape[1], x_NUCTHW.shape[3]
    with torch.no_grad():
        features = network.forward_features(x_NUCTHW)
    features = features.detach().requires_grad_(True)
    logit = network.head(features, units, frames)[0, class_index]
    (gradient,) = torch.autograd.grad(logit, features)
    contributions = (gradient * features).detach().sum(1)
    return ActivationMaps(
        contributions.unflatten(0, (units, frames)),
        float(network.fc.bias[class_index].detach()),
        float(logit.detach()),
    )


@torch.no_grad()
def unit_logits(network: nn.Module, x_NUCTHW: Tensor) -> Tensor:
    """What the classifier says to each unit's own features, `[U, K]`, for one video of any number of units.

    More units than the network has are shown in as few combinations of Algorithm 1 as hold them all, and
    a unit that is in several has the mean. An exported program shows no features: there each unit is
    scored alone, as a video that holds nothing else.
    """
    units = x_NUCTHW.shape[1]
    if not isinstance(network, VideoNet):
        alone = [network(x_NUCTHW[:, [unit] * network.units])[0] for unit in range(units)]
        return torch.stack(alone)
    total = torch.zeros(units, network.num_classes, device=x_NUCTHW.device)
    times = torch.zeros(units, 1, device=x_NUCTHW.device)
    for chosen in covering_combinations(units, network.units):
        features = network.forward_features(x_NUCTHW[:, chosen])
        total[chosen] += network.fc(network.pool(features, x_NUCTHW.shape[3])).float()
        times[chosen] += 1
    return total / times


def covering_combinations(units: int, units_trained: int) -> list[list[int]]:
    """As few combinations of Algorithm 1 as hold every unit at least once."""
    sections = unit_sections(units, units_trained)
    longest = max(map(len, sections))
    return [[section[min(turn, len(section) - 1)] for section in sections] for turn in range(longest)]


def _with_gradients(network: nn.Module) -> VideoNet:
    if not isinstance(network, VideoNet):
        raise V4DError("an exported program has no gradients to explain it by; give the checkpoint itself")
    return network.eval()
