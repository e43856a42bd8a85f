"""The laws of the temporal orders."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from v4d.evaluation.views import ORDERS, order_positions

unhurried = settings(deadline=None)
SIZES = {"units": st.integers(1, 12), "frames": st.integers(1, 9)}


@pytest.mark.parametrize("order", ORDERS)
@unhurried
@given(**SIZES)
def test_every_frame_is_shown_once_and_no_unit_is_torn_apart(order, units, frames):
    grid = order_positions(order, units, frames, video_id="abc")
    assert grid.shape == (units, frames)
    assert sorted(grid.flat) == list(range(units * frames))
    assert all(len(set(row // frames)) == 1 for row in grid)


@unhurried
@given(**SIZES)
def test_reversing_means_what_it_says(units, frames):
    grid = order_positions("normal", units, frames)
    assert (grid == np.arange(units * frames).reshape(units, frames)).all()
    assert (order_positions("units_reversed", units, frames) == grid[::-1]).all()
    assert (order_positions("frames_reversed", units, frames) == grid[:, ::-1]).all()
    both = order_positions("both_reversed", units, frames)
    assert (both.flatten() == grid.flatten()[::-1]).all()  # the whole video backwards


@unhurried
@given(st.integers(2, 12), st.integers(1, 9), st.text(max_size=11), st.integers(0, 99))
def test_shuffled_units_are_never_in_their_own_order_and_depend_on_seed_and_video_alone(
    units, frames, video_id, seed
):
    one = order_positions("units_shuffled", units, frames, seed=seed, video_id=video_id)
    again = order_positions("units_shuffled", units, frames, seed=seed, video_id=video_id)
    assert (one == again).all()
    assert (one != order_positions("normal", units, frames)).any()
    assert (np.diff(one, axis=1) == 1).all()  # inside a unit the frames run on


def test_another_seed_is_another_shuffle():
    shuffles = {order_positions("units_shuffled", 8, 1, seed=seed).tobytes() for seed in range(20)}
    assert len(shuffles) > 15
