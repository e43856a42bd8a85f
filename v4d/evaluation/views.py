"""The order in which a video is shown: does the network use time, inside units and across them?

Legend: U units, T frames of a unit.

The paper's arrow-of-time test (section 4.4) reverses the units (frames inside each as they are), or
the frames inside each unit (units as they are). A model that looks at order loses; one that does not
keeps its accuracy.
"""

import hashlib
from collections.abc import Callable

import numpy as np

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
