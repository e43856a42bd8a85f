"""How a video is shown to a network in a test, and its scores: crops, orders, numbers of units.

Legend: N videos, V views (crops), U units at test, C, T frames of a unit, H, W, K classes.

The paper's arrow-of-time test (section 4.4) reverses the units (frames inside each as they are), or
the frames inside each unit (units as they are). A model that looks at order loses; one that does not
keeps its accuracy.
"""

import hashlib
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from v4d.config import TestingConfig
from v4d.data.batch import normalise
from v4d.errors import V4DError
from v4d.evaluation.algorithm1 import evenly_spaced, video_scores
from v4d.models.base import VideoModel

Grid = np.ndarray
"""Positions 0 to U*T-1 as an array `[U, T]`: place (u, t) shows what belonged to the position in it."""


def _units_shuffled(grid: Grid, rng: np.random.Generator) -> Grid:
    """Another order of the units than their own, all others equally likely; a single unit has none."""
    units = np.arange(len(grid))
    order = units
    while len(units) > 1 and (order == units).all():
        order = rng.permutation(units)
    return grid[order]


ORDERS: dict[str, Callable[[Grid, np.random.Generator], Grid]] = {
    "normal": lambda grid, rng: grid,
    "units_reversed": lambda grid, rng: grid[::-1],
    "frames_reversed": lambda grid, rng: grid[:, ::-1],
    "both_reversed": lambda grid, rng: grid[::-1, ::-1],
    "units_shuffled": _units_shuffled,
}


UNIT_BY_UNIT = {"units_reversed": "normal", "units_shuffled": "normal", "both_reversed": "frames_reversed"}
"""The order that is the same to a network in which units do not meet."""


def order_positions(order: str, units: int, frames: int, *, seed: int = 0, video_id: str = "") -> Grid:
    """Where each place `[U, T]` takes its frame from, as a position in the flattened `[U*T]`.

    Applied to sampled indices it reorders those, `indices.reshape(-1)[positions]`; applied to decoded
    frames it does the same without decoding them again. What is drawn depends on the seed and the
    video alone, not on its place in a batch.
    """
    digest = hashlib.sha256(f"{seed}/{video_id}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    grid = np.arange(units * frames).reshape(units, frames)
    return ORDERS[order](grid, rng)


@dataclass(frozen=True)
class Scorer:
    """A model and how it is shown a video.

    The scores of a video are means over crops of Algorithm 1's: of probabilities, or of logits. They are
    accumulated in float64, so that the order of the crops does not matter.
    """

    model: VideoModel
    """In evaluation mode or not: `video_scores` takes care of it."""
    testing: TestingConfig
    """Orders (keys of `ORDERS`), and how Algorithm 1 runs (`combinations`, `average`, `chunk`)."""
    bf16: bool
    """Whether to compute in bf16; else in float32."""
    unit_counts: tuple[int, ...] = ()
    """Numbers of units, evenly spaced, to score the middle crop with as well."""
    seed: int = 0
    """Of the order `units_shuffled`."""
    seconds: list[float] = field(default_factory=list)
    """What the normal order has taken, a number a crop of a batch."""

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
        dtype = torch.bfloat16 if self.bf16 else torch.float32
        by_units: dict[int, Tensor] = {}
        crops, units = frames_NVUTHWC.shape[1:3]
        # Where units do not meet, their order changes nothing.
        shown = {
            order: UNIT_BY_UNIT.get(order, order) if self.model.clip_level else order
            for order in self.testing.orders
        }
        for crop in range(crops):
            x = normalise(frames_NVUTHWC[:, crop], self.model.input, dtype)
            for order in dict.fromkeys(shown.values()):
                begun = _now(x.device)
                scores = self._scores(reordered(x, order, video_ids, self.seed))
                if order == "normal":
                    self.seconds.append(_now(x.device) - begun)
                totals[order] = totals[order] + scores if crop else scores
                if crop == crops // 2 and order == "normal":
                    by_units[units] = scores
            if crop == crops // 2:
                for count in set(self.unit_counts) - {units}:
                    by_units[count] = self._scores(x[:, evenly_spaced(units, count)])
        mean = {order: self._to_host(total / crops, video_ids) for order, total in totals.items()}
        mean = {order: mean[same] for order, same in shown.items()}
        return mean, {count: self._to_host(by_units[count], video_ids) for count in self.unit_counts}

    def _scores(self, x: Tensor) -> Tensor:
        testing = self.testing
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            scores = video_scores(
                self.model,
                x,
                combinations=testing.combinations,
                average=testing.average,
                chunk=testing.chunk,
            )
        return scores.double()

    def _to_host(self, scores: Tensor, video_ids: Sequence[str]) -> np.ndarray:
        """Probabilities. Refuses NaN: comparisons with it are False, so all would count as correct."""
        host = (scores.softmax(-1) if self.testing.average == "logits" else scores).float().cpu().numpy()
        bad = np.flatnonzero(~np.isfinite(host).all(1))
        if len(bad):
            raise V4DError(
                f"video {video_ids[bad[0]]}: the network's scores are not finite; are its weights?"
            )
        return host


def _now(device: torch.device) -> float:
    """Seconds, when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def unit_counts(units_trained: int, units: int) -> tuple[int, ...]:
    """Numbers of units to measure the accuracy of: the trained one, doubled, up to that of the test."""
    doubled = (units_trained * 2**times for times in itertools.count())
    return (*itertools.takewhile(lambda count: count < units, doubled), units)


def reordered(x: Tensor, order: str, video_ids: Sequence[str], seed: int) -> Tensor:
    """Show each video's frames `[N, U, C, T, H, W]` in another order."""
    if order == "normal":
        return x
    units, frames = x.shape[1], x.shape[3]
    result = torch.empty_like(x)
    for number, video_id in enumerate(video_ids):
        grid = order_positions(order, units, frames, seed=seed, video_id=video_id)
        # All orders keep a unit's frames together: an order of units and one of frames describe them.
        unit_order = torch.as_tensor(grid[:, 0] // frames)
        frame_order = torch.as_tensor(np.ascontiguousarray(grid[0] % frames))
        result[number] = x[number][unit_order][:, :, frame_order]
    return result
