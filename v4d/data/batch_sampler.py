"""Which rank reads which video at which step: pure arithmetic, the same on every rank."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class Pick(NamedTuple):
    """One place in a batch."""

    epoch: int
    """Counted from 0."""
    video: int
    """Index in the list of videos."""
    filler: bool = False
    """The rank had no video left at this step; this one is another's and counts nothing."""


@dataclass(frozen=True)
class Share:
    """Which of the processes of a training or a test this one is."""

    rank: int = 0
    """Counted from 0."""
    world_size: int = 1
    """Number of processes."""


ALONE = Share()


@dataclass(frozen=True)
class TrainPlan:
    """Every video once an epoch; every rank makes the same number of steps.

    Videos are spread evenly over the steps, so that batches differ by one video at most and there is no
    small last one; within a step, and over the epoch, they are spread evenly over the ranks.
    Where a step has fewer videos than ranks, a rank without one gets a filler. With `equal` every batch is
    filled up to the same size.
    """

    shards: np.ndarray
    """Shard number of every video."""
    batch_size: int
    """Largest number of videos of one rank in a step."""
    share: Share = ALONE
    """Whose batches."""
    accumulate: int = 1
    """The number of steps is a multiple of this."""
    seed: int = 0
    """Of the shuffling."""
    locality: int = 0
    """Shards that are read at a time; 0 shuffles over all."""
    equal: bool = False
    """Whether batches are of one size, for networks that are compiled for it."""

    @property
    def steps(self) -> int:
        """Batches of an epoch, on every rank."""
        whole = self.batch_size * self.share.world_size * self.accumulate
        return -(-len(self.shards) // whole) * self.accumulate

    def order(self, epoch: int) -> np.ndarray:
        """The epoch's permutation of all videos.

        With a locality of k the shards are shuffled and taken k at a time, and videos are shuffled within
        such a window: it fits into the page cache where the whole set does not.
        """
        generator = np.random.default_rng([self.seed, epoch])
        if not self.locality:
            return generator.permutation(len(self.shards))
        numbers = generator.permutation(np.unique(self.shards))
        place = np.empty(int(self.shards.max(initial=0)) + 1, dtype=np.int64)
        place[numbers] = np.arange(len(numbers)) // self.locality
        return np.lexsort((generator.random(len(self.shards)), place[self.shards]))

    def batches(self, epoch: int, start: int = 0) -> Iterator[list[Pick]]:
        """This rank's batches from step `start` on."""
        order, steps = self.order(epoch), self.steps
        return (self._batch(epoch, order, step, steps) for step in range(start, steps))

    def _batch(self, epoch: int, order: np.ndarray, step: int, steps: int) -> list[Pick]:
        first, last = (len(order) * s // steps for s in (step, step + 1))
        videos, rest = divmod(last - first, self.share.world_size)
        turn = (self.share.rank - first) % self.share.world_size  # spreads the remainders over the ranks
        low = first + turn * videos + min(turn, rest)
        high = low + videos + (turn < rest)
        picks = [Pick(epoch, index) for index in order[low:high].tolist()]
        lacking = (self.batch_size if self.equal else 1) - len(picks)
        place = high if picks else first
        others = (order[number % len(order)] for number in range(place, place + lacking))
        return picks + [Pick(epoch, int(index), filler=True) for index in others]


@dataclass(frozen=True)
class EvalPlan:
    """Every video once over all ranks, no padding: ranks may have different numbers of batches."""

    count: int
    """Videos over all ranks."""
    batch_size: int
    """Largest number of videos of one rank in a step."""
    share: Share = ALONE
    """Whose batches."""

    @property
    def _videos(self) -> range:
        """This rank's, by index."""
        rank, size = self.share.rank, self.share.world_size
        return range(self.count * rank // size, self.count * (rank + 1) // size)

    @property
    def steps(self) -> int:
        """This rank's batches."""
        return -(-len(self._videos) // self.batch_size)

    def batches(self, epoch: int, start: int = 0) -> Iterator[list[Pick]]:
        """This rank's batches: neighbours in the list of videos stay together, for they share a shard."""
        videos = self._videos
        for first in range(start * self.batch_size, len(videos), self.batch_size):
            yield [Pick(epoch, index) for index in videos[first : first + self.batch_size]]
