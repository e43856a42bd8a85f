"""Sampling of units: the released code's indices, and the laws that any indices obey."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from v4d.data.sampling import eval_indices, train_indices

CASES = json.loads(Path(__file__).with_name("released_eval_sampling.json").read_text())["cases"]
shapes = {
    "num_frames": st.integers(1, 400),
    "units": st.integers(1, 12),
    "frames": st.integers(1, 16),
    "stride": st.integers(1, 12),
}


def test_eval_indices_are_the_released_ones():
    assert len(CASES) == 56
    for case in CASES:
        found = eval_indices(case["num_frames"], case["units"], case["frames"], case["stride"])
        assert found.tolist() == case["frames_idx"], case


def check_laws(indices: np.ndarray, num_frames: int, units: int, frames: int, stride: int) -> None:
    assert indices.shape == (units, frames)
    assert indices.dtype == np.int64
    assert indices.min() >= 0
    assert indices.max() < num_frames
    assert (np.diff(indices[:, 0]) >= 0).all()  # temporal order of units
    steps = np.diff(indices, axis=1)
    assert np.isin(steps, (0, stride)).all()
    assert (np.diff(steps, axis=1) <= 0).all()  # once it stays, it stays


@given(**shapes, centred=st.booleans())
def test_eval_indices_obey_the_laws(num_frames, units, frames, stride, centred):
    check_laws(
        eval_indices(num_frames, units, frames, stride, centred=centred), num_frames, units, frames, stride
    )


@given(**shapes, seed=st.integers(0, 2**32))
def test_train_indices_obey_the_laws_and_follow_the_generator(num_frames, units, frames, stride, seed):
    indices = train_indices(num_frames, units, frames, stride, np.random.default_rng(seed))
    check_laws(indices, num_frames, units, frames, stride)
    again = train_indices(num_frames, units, frames, stride, np.random.default_rng(seed))
    assert (indices == again).all()


@given(**shapes, seed=st.integers(0, 2**32))
def test_a_training_window_stays_in_its_section_and_in_the_video(num_frames, units, frames, stride, seed):
    starts_in_a_section = (num_frames - frames * stride + 1) // units
    indices = train_indices(num_frames, units, frames, stride, np.random.default_rng(seed))
    if starts_in_a_section > 0:
        section = indices[:, 0] // starts_in_a_section
        assert section.tolist() == list(range(units))
        assert (np.diff(indices, axis=1) == stride).all()  # a whole window, no frame twice
    elif num_frames > max(units, frames * stride):
        assert (np.diff(indices, axis=1) == stride).all()
    else:
        assert (indices[:, 0] == 0).all()


def test_every_start_of_a_section_is_drawn_equally_often():
    generator = np.random.default_rng(0)
    draws = np.stack([train_indices(41, 3, 4, 3, generator)[:, 0] for _ in range(3000)])
    room = (41 - 12 + 1) // 3
    for unit in range(3):
        places, counts = np.unique(draws[:, unit] - unit * room, return_counts=True)
        assert places.tolist() == list(range(room))
        assert ((counts - 300) ** 2 / 300).sum() < 30  # chi-square, 9 degrees of freedom: p > 0.0004


def test_sections_without_room_draw_sorted_starts_from_the_whole_video():
    generator = np.random.default_rng(0)
    draws = np.stack([train_indices(34, 4, 4, 8, generator)[:, 0] for _ in range(500)])
    assert (np.diff(draws, axis=1) >= 0).all()
    assert set(draws.ravel()) == {0, 1, 2}


@given(**shapes)
def test_centred_windows_are_the_same_from_either_end(num_frames, units, frames, stride):
    starts = eval_indices(num_frames, units, frames, stride, centred=True)[:, 0]
    last = max(0, num_frames - frames * stride)
    assert (abs(last - starts[::-1] - starts) <= 1).all()


@pytest.mark.parametrize("name", ["num_frames", "units", "frames", "stride"])
def test_counts_below_one_are_refused(name):
    counts = {"num_frames": 10, "units": 2, "frames": 4, "stride": 2} | {name: 0}
    with pytest.raises(ValueError, match=name):
        eval_indices(**counts)
    with pytest.raises(ValueError, match=name):
        train_indices(**counts, generator=np.random.default_rng(0))
