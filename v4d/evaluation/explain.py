"""Where and when a network looks: its answer taken apart over H, W, T and U.

Legend: U units, T frames of a unit, h, w the size of the last feature maps, K classes.

In evaluation mode a network's head is linear in the features, but for a bias (`VideoModel.head`). So a
class's logit is a sum of contributions of places, gradient times activation (Grad-CAM before its ReLU), plus
the bias. Nothing is approximated. What a unit's features know of other units they know through the 4D blocks.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from v4d.evaluation.algorithm1 import unit_sections
from v4d.models.base import VideoModel


@dataclass(frozen=True)
class ActivationMaps:
    """A class's logit, place by place: `contributions.sum() + bias == logit`."""

    contributions: np.ndarray
    """float32 `[U, T, h, w]`."""
    bias: float
    """What the head adds to the contributions."""
    logit: float
    """Of the class, before the softmax."""

    @property
    def units(self) -> np.ndarray:
        """The share of each unit, `[U]`."""
        return self.contributions.sum((1, 2, 3))


def activation_maps(model: VideoModel, x_NUCTHW: Tensor, class_index: int) -> ActivationMaps:
    """Take one class's logit of one video (`[1, U, C, T, H, W]`, U the network's own) apart.

    Raises:
        V4DError: the network does not show its features, e.g. an exported program.
    """
    model.eval()
    units, frames = x_NUCTHW.shape[1], x_NUCTHW.shape[3]
    with torch.no_grad():
        features = model.forward_features(x_NUCTHW)
        bias = model.head(torch.zeros_like(features), units, frames)[0, class_index]
    features = features.detach().requires_grad_(True)
    logit = model.head(features, units, frames)[0, class_index]
    (gradient,) = torch.autograd.grad(logit, features)
    contributions = (gradient * features).detach().sum(1).unflatten(0, (units, frames))
    return ActivationMaps(contributions.float().cpu().numpy(), float(bias), float(logit.detach()))


@torch.no_grad()
def unit_logits(model: VideoModel, x_NUCTHW: Tensor) -> Tensor:
    """What the classifier says to each unit's own features, `[U, K]`, for one video of any number of units.

    More units than the network has are shown in as few combinations of Algorithm 1 as hold them all, and
    a unit that is in several has the mean. A network that does not show the features of a unit scores each
    unit alone, as a video that holds nothing else.
    """
    units = x_NUCTHW.shape[1]
    if model.unit_steps() is None:
        alone = [model(x_NUCTHW[:, [unit] * model.units])[0] for unit in range(units)]
        return torch.stack(alone)
    total = torch.zeros(units, model.num_classes, device=x_NUCTHW.device)
    times = torch.zeros(units, 1, device=x_NUCTHW.device)
    for chosen in covering_combinations(units, model.units):
        features = model.forward_features(x_NUCTHW[:, chosen])
        total[chosen] += model.unit_logits(features, x_NUCTHW.shape[3]).float()
        times[chosen] += 1
    return total / times


def covering_combinations(units: int, units_trained: int) -> list[list[int]]:
    """As few combinations of Algorithm 1 as hold every unit at least once."""
    sections = unit_sections(units, units_trained)
    longest = max(map(len, sections))
    return [[section[min(turn, len(section) - 1)] for section in sections] for turn in range(longest)]
