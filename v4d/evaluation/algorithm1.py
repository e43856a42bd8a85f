"""Algorithm 1 of the paper: scores of a video from more units than the network was trained with.

The `U_infer` units are cut into `U_train` consecutive sections. Every way of taking one unit from each is a
combination; each goes through the network, and the mean of their softmax scores is the prediction. Only the
authors' test of Mini-Kinetics is this; see `video_scores` for their other one. TSN averages over its units.
Here the combinations share all they can, and the scores stay the same:

- up to the first 4D block a unit's features depend on nothing but the unit: they are computed once a unit;
- behind a 4D block they depend on the units next to it in the combination, so they are computed once for
  every distinct neighbourhood (at position p: every choice from the sections p-1, p and p+1, and so on);
- a convolution over U is a sum over its taps, so each tap is applied once to every distinct feature, and the
  sums are formed for every neighbourhood.

A network that does not show its steps (`VideoModel.unit_steps`) runs whole on every combination.

At a position p of a combination the distinct features are thus those of a product of neighbouring sections
(its axes), and are kept in the order of the product: the last section varies fastest.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from v4d.errors import V4DError
from v4d.models.base import MixingStep, UnitStep, VideoModel, unwrapped
from v4d.models.layout import fold, from_rows, to_rows

Choices = tuple[np.ndarray, ...]
"""Choices of a unit a section: for each of some positions, the number of the unit in its section."""


def unit_sections(units_infer: int, units_train: int) -> list[list[int]]:
    """The consecutive sections of units; 10 into 4 gives 2, 3, 3 and 2, as the released code has it.

    Raises:
        V4DError: fewer units than sections.
    """
    if units_infer < units_train:
        raise V4DError(f"{units_infer} units at test are fewer than the {units_train} of training")
    edges = [round(section * units_infer / units_train) for section in range(units_train + 1)]
    return [list(range(edges[section], edges[section + 1])) for section in range(units_train)]


def evenly_spaced(units: int, count: int) -> list[int]:
    """`count` of `units`, evenly; where it divides them, exactly those that a test of `count` units has."""
    return [place * units // count for place in range(count)]


@torch.no_grad()
def video_scores(
    model: nn.Module,
    x: Tensor,
    *,
    combinations: bool | str = True,
    average: str = "softmax",
    chunk: int = 16,
    keep: int = 640,
) -> Tensor:
    """Class scores `[N, num_classes]` of x `[N, U_infer, C, T, H, W]` by Algorithm 1.

    They are probabilities, the mean over the combinations; with `average="logits"` they are mean logits. Of a
    clip-level network (TSN) they are the mean over the units, each by itself.
    With `combinations=False` there is one pass over `U_train` units evenly spaced among the `U_infer`, with
    "all_units" one of all `U_infer` together, as the authors test Kinetics-400.
    The scores are those of evaluation mode, whatever the model's mode, which is put back. Memory is bounded:
    at most `chunk` units go through a layer together, and at most `keep` units' features are held around a 4D
    block (before it, behind it, and convolved with single taps). Where Algorithm 1 would hold more, the
    combinations are dealt with in parts that share less. A unit of 8 frames of 256x256 has 17 MB in front of
    the first block of a ResNet-50, in float32; 10 units into 4 need 168 of them, or 576 half as large with
    blocks in res4.

    Args:
        model: a `VideoModel`, also inside DDP or `torch.compile`.

    Raises:
        V4DError: no `[N, U, C, T, H, W]`, fewer units than the model was trained with, or "all_units" for a
            network that takes its own number only.
    """
    if x.dim() != 6 or chunk < 1:
        raise V4DError(f"need x as N U C T H W and chunk from 1 on, not {tuple(x.shape)} and {chunk}")
    network = unwrapped(model)
    sections = unit_sections(x.shape[1], network.units)
    was_training = network.training
    network.eval()
    try:
        score = _softmax if average == "softmax" else _single
        if not combinations or len(x) == 0:
            return score(network(x[:, evenly_spaced(x.shape[1], network.units)]))
        if network.clip_level:
            parts = x.flatten(0, 1).unsqueeze(1).split(chunk)  # every unit as a video of one unit
            return torch.cat([score(network(part)) for part in parts]).unflatten(0, x.shape[:2]).mean(1)
        steps = network.unit_steps()
        if combinations == "all_units":
            if steps is None and x.shape[1] != network.units:
                raise V4DError(
                    f"testing.combinations: all_units: {network.spec['arch']} takes {network.units}"
                )
            return torch.cat([score(network(part)) for part in x.split(max(1, chunk // x.shape[1]))])
        if steps is None:
            chosen = itertools.product(*sections)
            total = functools.reduce(torch.add, (score(network(x[:, list(units)])) for units in chosen))
            return total / math.prod(map(len, sections))
        plan = _Plan(network, steps, score, frames=x.shape[3], chunk=chunk, keep=keep)
        return torch.stack([plan.scores(video, sections) for video in x])
    finally:
        network.train(was_training)


@dataclass
class _Features:
    """The distinct features at one position of a combination."""

    axes: range
    """The positions whose choice of unit they depend on."""
    rows: Tensor
    """`[M, T, H, W, C]`, or at the end of the network the logits `[M, num_classes]`; M is the product of the
    axes' section sizes."""


class _Plan:
    """A network cut at the steps that mix units (4D blocks) into pieces that treat each unit by itself."""

    def __init__(
        self,
        network: VideoModel,
        steps: Sequence[UnitStep],
        score: Callable[[Tensor], Tensor],
        *,
        frames: int,
        chunk: int,
        keep: int,
    ):
        self.network, self.score = network, score
        self.frames, self.chunk, self.keep = frames, chunk, keep
        self.pieces: list[list[UnitStep]] = [[]]
        self.blocks: list[MixingStep] = []
        for step in steps:
            if getattr(step, "reach", 0) > 0:
                self.blocks.append(cast(MixingStep, step))
                self.pieces.append([])
            else:
                self.pieces[-1].append(step)

    def scores(self, units: Tensor, sections: list[list[int]]) -> Tensor:
        """Scores `[num_classes]` of one video's units `[U_infer, C, T, H, W]`."""
        parts = ([self._piece(0, fold(part[None]))] for part in units.split(self.chunk))
        return self._mean_scores(_gathered(parts, len(units))[0], sections)

    def _mean_scores(self, first: Tensor, sections: list[list[int]]) -> Tensor:
        """The mean over the combinations, given the first piece's rows for all units."""
        sizes = [len(section) for section in sections]
        if self._too_many(sizes):
            parts = [share * self._mean_scores(first, half) for share, half in _halves(sections)]
            return parts[0] + parts[1]
        features = [_Features(range(p, p + 1), first[section]) for p, section in enumerate(sections)]
        for number in range(1, len(self.pieces)):
            features = self._behind(number, features, sizes)
        return self._combine(features, sizes)

    def _combine(self, logits: list[_Features], sizes: list[int]) -> Tensor:
        """The mean over all combinations of the score of the mean over positions of the logits."""
        shapes = [[size if p in features.axes else 1 for p, size in enumerate(sizes)] for features in logits]
        rows = (_single(each.rows).unflatten(0, shape) for each, shape in zip(logits, shapes, strict=True))
        return self.score(functools.reduce(torch.add, rows) / len(sizes)).flatten(0, -2).mean(0)

    def _too_many(self, sizes: list[int]) -> bool:
        """Whether the features around a 4D block, or the combinations, are too many."""
        counts, reach = [], 0  # of features in front of each block, by position
        for block in self.blocks:
            counts.append([math.prod(_slice(sizes, _window(p, reach, sizes))) for p in range(len(sizes))])
            reach += block.reach
        held = 0  # stays 0 where no block mixes units
        for block, before, behind in zip(self.blocks, counts, [*counts[1:], []], strict=False):
            near = [_window(position, block.reach, sizes) for position in range(len(sizes))]
            taps = max(sum(before[other] * len(near[other]) for other in window) for window in near)
            held = max(held, sum(before) + taps + sum(behind))
        return max(sizes) > 1 and (held > self.keep or math.prod(sizes) > 64 * self.keep)

    def _behind(self, number: int, before: list[_Features], sizes: list[int]) -> list[_Features]:
        """The features behind a 4D block and the piece of the network that follows it."""
        block = self.blocks[number - 1]
        result: list[_Features] = []
        taps: dict[int, dict[int, Tensor]] = {}  # position -> tap -> rows
        for position in range(len(before)):
            near = _window(position, block.reach, sizes)
            for other in near:
                if other not in taps:
                    taps[other] = self._taps(block, before[other].rows, other, len(before))
            taps.pop(position - block.reach - 1, None)
            axes = range(before[near[0]].axes.start, before[near[-1]].axes.stop)
            terms = [_Features(before[other].axes, taps[other][other - position]) for other in near]
            terms.insert(0, before[position])
            parts = (
                [self._piece(number, _merged(block, terms, axes, choices, sizes))]
                for choices in self._choices(_slice(sizes, axes))
            )
            result.append(_Features(axes, *_gathered(parts, math.prod(_slice(sizes, axes)))))
        return result

    def _piece(self, number: int, x: Tensor) -> Tensor:
        """Units `[M*T, C, H, W]` through a piece: rows `[M, T, H', W', C']`, or logits at the end."""
        for step in self.pieces[number]:
            x = step(x, 1, self.frames)
        if number < len(self.blocks):
            return to_rows(x, self.frames)
        return self.network.unit_logits(x, self.frames)

    def _taps(self, block: MixingStep, rows: Tensor, position: int, positions: int) -> dict[int, Tensor]:
        """Rows convolved with each of the taps through which another position sees this one."""
        first = max(-block.reach, position - positions + 1)
        last = min(block.reach, position)
        parts = (
            [to_rows(y, self.frames) for y in block.taps(from_rows(part), self.frames, first, last)]
            for part in rows.split(self.chunk)
        )
        return dict(zip(range(first, last + 1), _gathered(parts, len(rows)), strict=True))

    def _choices(self, sizes: list[int]) -> Iterator[Choices]:
        """All choices of a unit a section, at most `chunk` at a time, as an array a section."""
        total = math.prod(sizes)
        for start in range(0, total, self.chunk):
            yield np.unravel_index(np.arange(start, min(start + self.chunk, total)), sizes)


def _window(position: int, reach: int, sizes: list[int]) -> range:
    """The positions within reach of a position."""
    return range(max(0, position - reach), min(len(sizes), position + reach + 1))


def _slice(sizes: list[int], axes: range) -> list[int]:
    return sizes[axes.start : axes.stop]


def _rows_of(features: _Features, axes: range, choices: Choices, sizes: list[int]) -> Tensor:
    """The rows of features that belong to choices given on `axes`, which contain theirs."""
    own = features.axes
    mine = choices[own.start - axes.start : own.stop - axes.start]
    numbers = torch.from_numpy(np.ravel_multi_index(mine, _slice(sizes, own)))
    return features.rows[numbers.to(features.rows.device)]


def _merged(
    block: MixingStep, terms: list[_Features], axes: range, choices: Choices, sizes: list[int]
) -> Tensor:
    """The block for some choices: `terms` are its input and the taps to add, each with its own axes."""
    x, first, *others = (_rows_of(features, axes, choices, sizes) for features in terms)
    return block.merge(from_rows(x), from_rows(sum(others, first)))


def _gathered(parts: Iterable[list[Tensor]], total: int) -> list[Tensor]:
    """As `torch.cat` for each of the tensors in a part, but without holding all parts and the result."""
    whole: list[Tensor] = []
    filled = 0
    for part in parts:
        whole = whole or [tensor.new_empty(total, *tensor.shape[1:]) for tensor in part]
        for buffer, tensor in zip(whole, part, strict=True):
            buffer[filled : filled + len(tensor)] = tensor
        filled += len(part[0])
    return whole


def _halves(sections: list[list[int]]) -> list[tuple[float, list[list[int]]]]:
    """The combinations in two parts, by halving the longest section; each with its share of the whole."""
    longest = max(range(len(sections)), key=lambda position: len(sections[position]))
    units = sections[longest]
    halves = units[: len(units) // 2], units[len(units) // 2 :]
    return [
        (len(half) / len(units), [*sections[:longest], half, *sections[longest + 1 :]]) for half in halves
    ]


def _single(logits: Tensor) -> Tensor:
    """In single precision at least: sums of logits in half would tie classes."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _softmax(logits: Tensor) -> Tensor:
    """Probabilities."""
    return _single(logits).softmax(-1)
