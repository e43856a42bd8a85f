"""Pickers of crops and colours, and the step that applies them, against PIL."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.support.shards import picture
from v4d.config import CropConfig
from v4d.data import color
from v4d.data import transforms as augment
from v4d.data.transforms import Augmentation, Box
from v4d.errors import V4DError

RELEASED = CropConfig(kind="multi_scale", size=224, jitter=(256, 320), flip=0.5)
KINDS = ["multi_scale", "short_side_jitter", "random_resized", "centre"]
sides = st.integers(16, 200)


def draw(count: int, pick, *arguments) -> list:
    generator = np.random.default_rng(0)
    return [pick(*arguments, generator) for _ in range(count)]


@given(height=sides, width=sides, seed=st.integers(0, 2**32), kind=st.sampled_from(KINDS))
def test_every_crop_lies_in_the_frame_and_follows_the_generator(height, width, seed, kind):
    config = RELEASED.replace(kind=kind, size=16, jitter=(16, 40), color_jitter=0.5, randaugment=9)
    found = augment.pick(config, height, width, np.random.default_rng(seed))
    box = found.box
    assert 0 <= box.top <= box.top + box.height <= height
    assert 0 <= box.left <= box.left + box.width <= width
    assert min(box.height, box.width) > 0
    assert found == augment.pick(config, height, width, np.random.default_rng(seed))


def test_multi_scale_has_the_released_sides_and_places():
    boxes = draw(5000, augment.multi_scale_crop, 256, 320, 224)
    sizes = {(box.width, box.height) for box in boxes}
    steps = [256, 224, 192, 168]
    assert sizes == {(steps[i], steps[j]) for i in range(4) for j in range(4) if abs(i - j) <= 1}
    places = {
        ((b.left, b.top), (320 - b.width, 256 - b.height)) for b in boxes if (b.width, b.height) == (192, 192)
    }
    quarters = {(4 * left // 128, 4 * top // 64) for (left, top), _ in places}
    corners, edges = {(0, 0), (4, 0), (0, 4), (4, 4)}, {(0, 2), (4, 2), (2, 0), (2, 4)}
    assert quarters == corners | edges | {(2, 2), (1, 1), (3, 1), (1, 3), (3, 3)}


def test_multi_scale_takes_the_size_itself_where_a_side_is_within_two_pixels_of_it():
    """As released: 224 for the 223.1 of a short side of 255, and no resize."""
    sides = [{b.height for b in draw(500, augment.multi_scale_crop, 255, 320, size)} for size in (None, 224)]
    assert sides == [{255, 223, 191, 168}, {255, 224, 191, 168}]
    assert {b.height for b in draw(500, augment.multi_scale_crop, 260, 320, 224)} == {260, 227, 195, 171}
    whole = {b.height for b in draw(500, augment.multi_scale_crop, 222, 320, 224)}
    assert whole == {222, 194, 166, 146}  # 224 would not fit
    config = CropConfig(size=224)
    found = {augment.pick(config, 255, 320, np.random.default_rng(n)).box.height for n in range(200)}
    assert 224 in found and 223 not in found


def test_short_side_jitter_is_a_square_of_the_resized_frame():
    boxes = draw(3000, augment.short_side_jitter_crop, 256, 340, 224, (256, 320))
    assert all(box.height == box.width for box in boxes)
    assert {box.height for box in boxes} == set(range(round(224 * 256 / 320), 224 + 1))
    assert min(b.left for b in boxes) == min(b.top for b in boxes) == 0
    with pytest.raises(V4DError, match="a crop of 300 does not fit a short side of 256"):
        augment.short_side_jitter_crop(256, 340, 300, (256, 320), np.random.default_rng(0))


def test_random_resized_crops_cover_areas_and_ratios():
    boxes = draw(3000, augment.random_resized_crop, 256, 320)
    areas = np.array([box.height * box.width / (256 * 320) for box in boxes])
    ratios = np.array([box.width / box.height for box in boxes])
    assert (areas.min() < 0.1, areas.max() > 0.8, areas.min() > 0.07) == (True, True, True)
    assert 0.73 < ratios.min() < 0.78
    assert 1.28 < ratios.max() < 1.36
    narrow = draw(20, augment.random_resized_crop, 1000, 2)
    assert {(box.height, box.width) for box in narrow} <= {(h, w) for h in (1, 2, 3) for w in (1, 2)}


def test_test_crops_are_spread_over_the_longer_side():
    assert [b.left for b in augment.spread_crops(256, 320, 256, 3)] == [0, 32, 64]
    assert augment.spread_crops(256, 320, 224, 1) == [Box(16, 48, 224, 224)]
    assert augment.spread_crops(320, 256, 256, 3) == [Box(top, 0, 256, 256) for top in (0, 32, 64)]
    assert augment.spread_crops(256, 320, None, 3) == augment.spread_crops(256, 320, 256, 3)
    assert augment.spread_crops(64, 64, 64, 3) == [Box(0, 0, 64, 64)]
    assert [b.left for b in augment.spread_crops(256, 256, 224, 3)] == [0, 16, 32]
    # thought at a short side of 256: a crop of 256 is the whole short side
    assert augment.spread_crops(128, 160, 256, 3, short_side=256) == [
        Box(0, x, 128, 128) for x in (0, 16, 32)
    ]


@pytest.mark.parametrize("options", [{}, {"short_side": 200}])
def test_a_crop_larger_than_the_frame_is_refused_with_both_sizes(options):
    with pytest.raises(V4DError, match=r"a crop of 256 does not fit frames of 128x96.*testing.short_side"):
        augment.spread_crops(96, 128, 256, 3, **options)


@given(height=sides, width=sides, crops=st.integers(1, 9), share=st.floats(0.1, 1))
def test_test_crops_are_even_and_reach_both_ends(height, width, crops, share):
    size = max(1, int(min(height, width) * share))
    boxes = augment.spread_crops(height, width, size, crops)
    places = sorted(box.left if width >= height else box.top for box in boxes)
    room = max(height, width) - size
    assert len(boxes) == (crops if room else 1)
    if len(boxes) > 1:
        assert (places[0], places[-1]) == (0, room)
        assert np.ptp(np.diff(places)) <= 1
    else:
        assert abs(2 * places[0] - room) <= 1


@settings(max_examples=60)
@given(data=st.data(), flip=st.booleans(), size=st.integers(8, 120))
def test_pixels_are_those_of_pil_to_two_levels(data, flip, size):
    noise = np.random.default_rng(0).integers(0, 60, (96, 128, 3), dtype=np.uint8)
    frames = np.stack([picture(n, 128, 96) // 2 + noise for n in range(2)])
    height, width = data.draw(st.integers(8, 96)), data.draw(st.integers(8, 128))
    top, left = data.draw(st.integers(0, 96 - height)), data.draw(st.integers(0, 128 - width))
    box = Box(top, left, height, width)
    found = augment.apply(torch.from_numpy(frames), Augmentation(box, size, flip)).numpy()
    assert found.shape == (2, size, size, 3)
    for image, frame in zip(found, frames, strict=True):
        expected = Image.fromarray(frame).crop((left, top, left + width, top + height))
        expected = expected.resize((size, size), Image.BILINEAR)
        if flip:
            expected = expected.transpose(Image.FLIP_LEFT_RIGHT)
        assert abs(image.astype(int) - np.asarray(expected)).max() <= 2


def test_a_crop_of_the_right_size_is_copied_bit_by_bit():
    frames = torch.from_numpy(np.stack([picture(n) for n in range(3)]))
    out = torch.zeros((3, 40, 40, 3), dtype=torch.uint8)
    assert augment.apply(frames, Augmentation(Box(4, 9, 40, 40), 40), out) is out
    assert torch.equal(out, frames[:, 4:44, 9:49])
    flipped = augment.apply(frames, Augmentation(Box(4, 9, 40, 40), 40, flip=True))
    assert torch.equal(flipped, out.flip(2))


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_the_flip_can_be_turned_off_and_on(probability):
    config = RELEASED.replace(flip=probability)
    assert {a.flip for a in draw(100, lambda g: augment.pick(config, 256, 320, g))} == {bool(probability)}


def test_colours_are_left_alone_by_default():
    assert all(a.colors == () for a in draw(50, lambda g: augment.pick(RELEASED, 256, 320, g)))


@pytest.mark.parametrize("options", [{"jitter": 0.8, "randaugment": 0}, {"jitter": 0.0, "randaugment": 20}])
def test_colours_change_every_frame_alike(options):
    frame = picture(1, 48, 40)
    frames = torch.from_numpy(np.stack([frame, picture(5, 48, 40), frame]))
    changed = set()
    for steps in draw(60, lambda g: color.pick(**options, generator=g)):
        result = color.apply(frames, steps)
        assert (result.shape, result.dtype) == (frames.shape, torch.uint8)
        assert torch.equal(result[0], result[2])
        if not torch.equal(result, frames):
            changed |= {step.name for step in steps}
    assert changed >= (set(color.JITTER) if options["jitter"] else set(color.REACH) - {"identity"})


def test_colour_steps_reach_as_far_as_they_say():
    steps = [s for steps in draw(4000, lambda g: color.pick(0.5, 0, g)) for s in steps]
    for name, reach in color.JITTER.items():
        amounts = np.array([s.amount for s in steps if s.name == name]) - (0 if name == "hue" else 1)
        assert abs(amounts).max() <= 0.5 * reach
        assert amounts.min() < -0.49 * reach < 0.49 * reach < amounts.max()
    flat = torch.full((2, 8, 8, 3), 100, dtype=torch.uint8)
    assert (color.apply(flat, (color.Operation("brightness", 1.5),)) == 150).all()
    assert (color.apply(flat, (color.Operation("solarize", 200.0),)) == 155).all()
    assert (color.apply(flat, (color.Operation("posterize", 4.0),)) == 96).all()


def test_amounts_of_geometric_steps_and_of_hue_have_their_units():
    red = torch.zeros((1, 40, 40, 3), dtype=torch.uint8)
    red[..., 0] = 200
    assert color.apply(red, (color.Operation("hue", 1 / 3),))[0, 0, 0].tolist() == [
        0,
        200,
        0,
    ]  # of the circle

    def where(name: str, amount: float) -> list[float]:
        """Middle (y, x) of a spot that lay at (8, 24), in the frame's own pixels."""
        frame = torch.zeros((1, 40, 40, 3), dtype=torch.uint8)
        frame[:, 7:10, 23:26] = 255
        moved = color.apply(frame, (color.Operation(name, amount),))
        return moved[0, :, :, 0].nonzero().double().mean(0).tolist()

    assert where("identity", 0) == [8, 24]
    assert where("rotate", 90) in ([15, 8], [24, 31])  # degrees, one way or the other
    assert where("translate_x", 0.25) == [8, 34]  # shares of the side
    assert where("translate_y", 0.25) == [18, 24]
    y, x = where("shear_x", 45)  # degrees: as far to the side as it is from the middle
    assert (y, abs(x - 24)) == pytest.approx((8, 11.5), abs=1.1)
    y, x = where("shear_y", 45)
    assert (abs(y - 8), x) == pytest.approx((4.5, 24), abs=1.1)


def test_an_unknown_step_or_kind_is_an_error():
    with pytest.raises(ValueError, match="sepia"):
        color.apply(torch.zeros((1, 4, 4, 3), dtype=torch.uint8), (color.Operation("sepia"),))
    with pytest.raises(ValueError, match="zigzag"):
        augment.pick(RELEASED.replace(kind="zigzag"), 64, 64, np.random.default_rng(0))
