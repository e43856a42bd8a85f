"""The laws of the temporal orders."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from v4d.config import TestingConfig
from v4d.evaluation import views
from v4d.evaluation.views import ORDERS, Scorer, order_positions
from v4d.models import create_model

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


@pytest.mark.parametrize(("arch", "computed"), [("i3ds_tiny", 2), ("v4d_tiny", 5)])
def test_where_units_do_not_meet_their_order_is_not_computed(monkeypatch, arch, computed):
    torch.manual_seed(0)
    model = create_model(arch, num_classes=3, units=2, frames=2).eval()
    scored = []

    def counted(model, x, **options):
        scored.append(x)
        return views_scores(model, x, **options)

    views_scores = views.video_scores
    monkeypatch.setattr(views, "video_scores", counted)
    frames = torch.randint(0, 256, (2, 2, 4, 2, 16, 16, 3), dtype=torch.uint8)
    score = Scorer(model, TestingConfig(orders=tuple(ORDERS)), bf16=False)
    scores, _ = score(frames, ["a", "b"])
    assert len(scored) == 2 * computed and len(score.seconds) == 2  # of two crops
    assert list(scores) == list(ORDERS)
    copied = (scores["units_reversed"] == scores["normal"]).all()
    assert copied == (scores["both_reversed"] == scores["frames_reversed"]).all() == (computed == 2)
