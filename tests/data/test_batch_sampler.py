"""Shares of ranks: every video once, the same number of steps, and what is read together."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from v4d.data.batch_sampler import EvalPlan, Share, TrainPlan

sizes = {
    "count": st.integers(1, 150),
    "batch_size": st.integers(1, 9),
    "world_size": st.integers(1, 9),
    "accumulate": st.integers(1, 3),
    "shards": st.integers(1, 9),
    "locality": st.integers(0, 4),
}


def plans(count, batch_size, world_size, accumulate, shards, locality) -> list[TrainPlan]:
    numbers = np.arange(count) % shards
    return [
        TrainPlan(numbers, batch_size, Share(rank, world_size), accumulate, seed=3, locality=locality)
        for rank in range(world_size)
    ]


@given(**sizes, epoch=st.integers(0, 5))
def test_an_epoch_shows_every_video_once_over_all_ranks_in_equally_many_steps(epoch, **size):
    ranks = [list(plan.batches(epoch)) for plan in plans(**size)]
    picks = [pick for batches in ranks for batch in batches for pick in batch]
    assert sorted(p.video for p in picks if not p.filler) == list(range(size["count"]))
    (steps,) = {len(batches) for batches in ranks} | {plan.steps for plan in plans(**size)}
    assert steps % size["accumulate"] == 0
    assert steps * size["batch_size"] * size["world_size"] >= size["count"]


@given(**sizes)
def test_steps_and_ranks_are_balanced(**size):
    ranks = [list(plan.batches(0)) for plan in plans(**size)]
    real = np.array([[sum(not p.filler for p in batch) for batch in batches] for batches in ranks])
    assert real.max() <= size["batch_size"]
    assert np.ptp(real.sum(0)) <= 1  # videos of a step, over the steps
    assert (np.ptp(real, axis=0) <= 1).all()  # videos of a rank, within each step
    assert np.ptp(real.sum(1)) <= 1  # videos of a rank, over the epoch
    assert all(batch for batches in ranks for batch in batches)
    for step, videos in enumerate(real.sum(0)):
        fillers = sum(p.filler for batches in ranks for p in batches[step])
        assert fillers == max(0, size["world_size"] - videos)


@given(**sizes, start=st.integers(0, 30))
def test_resuming_goes_on_with_the_very_next_batch(start, **size):
    for plan in plans(**size):
        assert list(plan.batches(2, start)) == list(plan.batches(2))[start:]


@given(**sizes)
def test_batches_are_of_one_size_for_a_compiled_network(**size):
    """Fillers alone are added; whoever had no video keeps the filler of unequal batches."""
    for plan in plans(**size):
        equal = [*dataclasses.replace(plan, equal=True).batches(1)]
        assert {len(batch) for batch in equal} == {size["batch_size"]}
        for batch, before in zip(equal, plan.batches(1), strict=True):
            assert batch[: len(before)] == before
            assert all(pick.filler for pick in batch[len(before) :])


def test_epochs_differ_and_the_seed_decides():
    orders = [
        TrainPlan(np.zeros(50, dtype=int), 5, seed=seed).order(epoch) for seed in (0, 1) for epoch in (0, 1)
    ]
    assert len({tuple(order) for order in orders}) == 4
    assert (orders[0] == TrainPlan(np.zeros(50, dtype=int), 7, seed=0).order(0)).all()


@given(
    shards=st.integers(1, 12), videos=st.integers(1, 9), locality=st.integers(1, 5), seed=st.integers(0, 99)
)
def test_locality_reads_a_few_shards_at_a_time_and_shuffles_within_them(shards, videos, locality, seed):
    numbers = np.repeat(np.arange(shards), videos)
    order = TrainPlan(numbers, 4, seed=seed, locality=locality).order(0)
    windows = [
        numbers[order[first : first + locality * videos]] for first in range(0, len(order), locality * videos)
    ]
    seen = [set(window.tolist()) for window in windows]
    assert all(len(window) <= locality for window in seen)
    assert sum(map(len, seen)) == len(set(numbers.tolist()))  # no shard comes back


def test_locality_shuffles_shards_and_the_videos_of_a_window():
    numbers = np.repeat(np.arange(8), 50)
    plan = TrainPlan(numbers, 4, locality=2)
    first, second = numbers[plan.order(0)], numbers[plan.order(1)]
    assert set(first[:100]) != set(second[:100])
    changes = (np.diff(first[:100]) != 0).sum()
    assert changes > 25  # two shards in turns, not one after the other


@given(
    count=st.integers(1, 150),
    batch_size=st.integers(1, 9),
    world_size=st.integers(1, 9),
    start=st.integers(0, 9),
)
def test_evaluation_shows_every_video_once_without_padding(count, batch_size, world_size, start):
    indices = []
    for rank in range(world_size):
        plan = EvalPlan(count, batch_size, Share(rank, world_size))
        batches = list(plan.batches(0))
        assert len(batches) == plan.steps
        assert all(1 <= len(batch) <= batch_size for batch in batches)
        assert list(plan.batches(0, start)) == batches[start:]
        indices += [pick.video for batch in batches for pick in batch]
    assert indices == list(range(count))


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_a_quarter_of_a_million_videos(world_size):
    count = 240_436
    plans = [TrainPlan(np.arange(count) // 1000, 6, Share(rank, world_size)) for rank in range(world_size)]
    seen = np.concatenate([[p.video for batch in plan.batches(0) for p in batch] for plan in plans])
    assert len(np.unique(seen)) == len(seen) == count
