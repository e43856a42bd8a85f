"""From a batch of frames to scores: crops, orders, Algorithm 1.

Legend: N videos, V views (crops), U units at test, C, T frames of a unit, H, W, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from v4d.data.batch import normalise
from v4d.errors import V4DError
from v4d.evaluation.algorithm1 import evenly_spaced
from v4d.evaluation.exported import any_scores
from v4d.evaluation.views import order_positions


@dataclass(frozen=True)
class Scorer:
    """A model and how it is shown a video.

    The scores of a video are means over crops of Algorithm 1's. They are accumulated in float64, so that
    the order of the crops does not matter.
    """

    model: nn.Module
    orders: tuple[str, ...]
    unit_counts: tuple[int, ...] = ()
    combinations: bool = True
    chunk: int = 64
    bf16: bool = False
    seed: int = 0

    def __call__(
        self, frames_NVUTHWC: Tensor, video_ids: Sequence[str]
    ) -> tuple[dict[str, np.ndarray], dict[int, np.ndarray]]:
        """Score uint8 frames on the device that computes.

        Returns:
            Probabilities `[N, K]` float32 by order, and by number of units for the middle crop alone.

        Raises:
            V4DError: scores that are no numbers, as of a training that has diverged.
        """
        totals: dict[str, Tensor] = {}
        by_units: dict[int, Tensor] = {}
        crops, units = frames_NVUTHWC.shape[1:3]
        for crop in range(crops):
            x = normalise(frames_NVUTHWC[:, crop], torch.bfloat16 if self.bf16 else torch.float32)
            for order in self.orders:
                scores = self._scores(reordered(x, order, video_ids, self.seed))
                totals[order] = totals.get(order, 0) + scores
                if crop == crops // 2 and order == "normal":
                    by_units[units] = scores
            if crop == crops // 2:
                for count in set(self.unit_counts) - {units}:
                    by_units[count] = self._scores(x[:, evenly_spaced(units, count)])
        mean = {order: _to_host(total / crops, video_ids) for order, total in totals.items()}
        return mean, {count: _to_host(by_units[count], video_ids) for count in self.unit_counts}

    def _scores(self, x: Tensor) -> Tensor:
        device = x.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.bf16):
            scores = any_scores(self.model, x, combinations=self.combinations, chunk=self.chunk)
        return scores.double()


def unit_counts(units_trained: int, units: int) -> tuple[int, ...]:
    """Numbers of units to measure the accuracy of: the trained one, doubled, up to that of the test."""
    counts = []
    count = units_trained
    while count < units:
        counts.append(count)
        count *= 2
    return (*counts, units)


def reordered(x: Tensor, order: str, video_ids: Sequence[str], seed: int) -> Tensor:
    """Show each video's frames `[N, U, C, T, H, W]` in another order."""
    if order == "normal":
        return x
    units, frames = x.shape[1], x.shape[3]
    result = torch.empty_like(x)
    for number, video_id in enumerate(video_ids):
        grid = order_positions(order, units, frames, seed=seed, video_id=video_id)
        # A unit's frames stay together, so the order of units and the order inside them say it all.
        unit_order = torch.as_tensor(grid[:, 0] // frames)
        frame_order = torch.as_tensor(np.ascontiguousarray(grid[0] % frames))
        result[number] = x[number][unit_order][:, :, frame_order]
    return result


def _to_host(scores: Tensor, video_ids: Sequence[str]) -> np.ndarray:
    """As float32. NaN is refused: no class is better than it, so every video would count as right."""
    host = scores.float().cpu().numpy()
    bad = np.flatnonzero(~np.isfinite(host).all(1))
    if len(bad):
        raise V4DError(f"video {video_ids[bad[0]]}: the network's scores are not finite; are its weights?")
    return host
