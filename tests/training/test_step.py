"""A step's arithmetic: ranks, accumulation and uneven batches give the mean over the videos, exactly."""

import math

import pytest
import torch

from tests.support.processes import in_ranks
from tests.support.training import ALONE, learner, part, videos
from v4d.data.batch import Batch
from v4d.distributed.group import DistributedContext
from v4d.errors import V4DError
from v4d.training import step as step_module
from v4d.training.step import _first_bad, seed_step
from v4d.training.validation import summarise


def weights_after(
    batches: list[Batch], ranks: DistributedContext, **training
) -> tuple[torch.Tensor, list[float]]:
    own = learner(ranks, **training)
    sums = own.step(batches, epoch=0, step=0, part=0.0)
    return torch.cat([p.detach().flatten() for p in own.model.parameters()]), sums.tolist()


def test_accumulation_equals_the_whole_batch():
    whole = videos(8)
    expected, sums = weights_after([whole], ALONE)
    parts = [part(whole, n, n + 2) for n in range(0, 8, 2)]
    found, part_sums = weights_after(parts, ALONE, accumulate=4)
    assert torch.allclose(found, expected, atol=1e-6, rtol=0)
    assert part_sums == pytest.approx(sums)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"accumulate": 2},
            "4 videos a pass: set training.accumulate 4 (the same step in more passes), or tr",
        ),
        ({"batch_size": 1, "checkpoint_activations": True}, "1 videos a pass: set a smaller training.batch"),
    ],
)
def test_a_share_that_a_gpu_does_not_hold_is_one_line(monkeypatch, settings, line):
    own = learner(ALONE, **settings)

    def full(batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(own, "_loss", full)
    with pytest.raises(V4DError) as caught:
        own.step([videos(4)], epoch=0, step=0, part=0.0)
    assert str(caught.value).startswith(f"the GPU's memory does not hold {line}")


def test_videos_of_no_weight_change_nothing():
    whole = videos(4)
    expected, sums = weights_after([part(whole, 0, 3)], ALONE)
    whole.weight[3] = 0
    found, found_sums = weights_after([whole], ALONE)
    assert torch.allclose(found, expected, atol=1e-6, rtol=0)
    assert found_sums == pytest.approx(sums)


def rank_step(ranks: DistributedContext, shares: list[tuple[int, int]]) -> tuple[torch.Tensor, list[float]]:
    return weights_after([part(videos(8), *shares[ranks.rank])], ranks)


@pytest.mark.parametrize("shares", [[(0, 4), (4, 8)], [(0, 3), (3, 6), (6, 8)]], ids=["even", "uneven"])
def test_ranks_equal_one_rank_with_the_whole_batch(shares):
    expected, sums = weights_after([videos(8)], ALONE)
    found = in_ranks(len(shares), rank_step, shares)
    for weights, _ in found:
        assert torch.allclose(weights, expected, atol=1e-6, rtol=0)
    total = torch.tensor([rank_sums for _, rank_sums in found]).sum(0)
    assert total.tolist() == pytest.approx(sums, rel=1e-5)


def test_the_gradient_is_clipped_to_the_limit():
    whole = videos(4)
    loose = learner(ALONE)
    loose.step([whole], 0, 0, 0.0)
    norm = torch.cat([p.grad.flatten() for p in loose.model.parameters()]).norm()
    tight = learner(ALONE, clip_grad_norm=float(norm) / 2)
    tight.step([whole], 0, 0, 0.0)
    clipped = torch.cat([p.grad.flatten() for p in tight.model.parameters()]).norm()
    assert clipped.item() == pytest.approx(norm.item() / 2, rel=1e-4)


def test_without_a_limit_no_norm_is_taken(monkeypatch):
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", None)
    learner(ALONE).step([videos(4)], 0, 0, 0.0)
    with pytest.raises(TypeError):
        learner(ALONE, clip_grad_norm=1.0).step([videos(4)], 0, 0, 0.0)


def test_frames_are_normalised_to_what_the_network_computes_in(monkeypatch):
    """In bf16 no float32 copy of the frames is made, and the step is the same to the last digit."""
    seen, whole = [], videos(4)
    normalise = step_module.normalise

    def wide(frames, spec, dtype):
        seen.append(dtype)
        return normalise(frames, spec)

    for settings, dtype in (({}, torch.bfloat16), ({"mixup": 0.2}, torch.float32)):
        expected = learner(ALONE, precision="bf16", **settings).step([whole], 0, 0, 0.0)
        with monkeypatch.context() as patch:
            patch.setattr(step_module, "normalise", wide)
            found = learner(ALONE, precision="bf16", **settings).step([whole], 0, 0, 0.0)
        assert torch.equal(found, expected)
        assert seen.pop() == dtype


def test_dropout_follows_the_place_in_the_training():
    def draw(*place: int) -> torch.Tensor:
        seed_step(*place)
        return torch.rand(4)

    assert torch.equal(draw(0, 1, 2, 0, 0), draw(0, 1, 2, 0, 0))
    others = [
        draw(1, 1, 2, 0, 0),
        draw(0, 2, 2, 0, 0),
        draw(0, 1, 3, 0, 0),
        draw(0, 1, 2, 1, 0),
        draw(0, 1, 2, 0, 1),
    ]
    assert all(not torch.equal(draw(0, 1, 2, 0, 0), other) for other in others)


def test_a_loss_that_is_not_finite_is_told_with_its_own_rate():
    own = learner(ALONE, epochs=10, schedule={"name": "cosine"}, optimizer={"lr": 1.0})
    losses = [(0.0, 0, ["a"], torch.tensor(1.0)), (5.0, 7, ["b"], torch.tensor(math.nan))]
    seen = [*losses, (9.9, 9, ["c"], torch.tensor(math.nan))]
    words = "loss is nan at step 8 of epoch 6, learning rate 0.5, videos b"
    assert _first_bad(seen, own) == words and _first_bad(losses[:1], own) is None


def test_validation_counts_every_video_once():
    rows = [("a", 1.0, True, True), ("b", 3.0, False, True)]
    assert summarise(rows, 2) == {"val/loss": 2.0, "val/top1": 50.0, "val/top5": 100.0}
    assert summarise(rows[::-1], 2) == summarise(rows, 2)
    with pytest.raises(V4DError, match="1 different videos in 2 rows"):
        summarise([rows[0], rows[0]], 2)
    with pytest.raises(V4DError, match="manifest has 3"):
        summarise(rows, 3)
