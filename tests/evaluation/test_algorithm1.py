"""Algorithm 1 with sharing gives what brute force over all combinations gives, for fewer multiply-adds."""

import itertools
import json
import weakref
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from v4d.errors import V4DError
from v4d.evaluation import video_scores
from v4d.evaluation.algorithm1 import unit_sections
from v4d.models import create_model, gmac

REFERENCE = json.loads((Path(__file__).parent / "combinations_10_to_4.json").read_text())


def network(arch="v4d_tiny", preset="released", units=4, frames=2, dtype=torch.float32, **options):
    """A network whose 4D kernels, statistics and classifier all matter."""
    torch.manual_seed(0)
    model = create_model(arch, num_classes=5, units=units, frames=frames, preset=preset, **options)
    for block in model.blocks4d().values():
        fan_in = block.conv.weight[0].numel()
        torch.nn.init.normal_(block.conv.weight, std=fan_in**-0.5)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    torch.nn.init.normal_(model.fc.weight, std=0.3)
    return model.to(dtype).eval()


def softmax(logits):
    return logits.softmax(-1)


@torch.inference_mode()
def brute_force(model, x, score=softmax):
    """Every combination through the whole network, in the words of Algorithm 1."""
    sections = unit_sections(x.shape[1], model.units)
    scores = [score(model(x[:, list(units)])) for units in itertools.product(*sections)]
    return torch.stack(scores).mean(0)


def test_the_released_combinations():
    found = [list(units) for units in itertools.product(*unit_sections(10, 4))]
    assert found == REFERENCE["combinations"] and len(found) == 36


@pytest.mark.parametrize("arch", ["v4d_tiny", "i3ds_tiny"])
def test_close_classes_do_not_tie_in_bf16(arch):
    """Logits that differ by one part in 5,000 are one number in bf16."""
    model = network(arch)
    weight = model.fc.weight.data
    weight[1:] = weight[:1] * (1 + 2e-4 * torch.arange(1, 5)[:, None])
    model.fc.bias.data.zero_()
    x = torch.randn(2, 6, 3, 2, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        scores, logits = video_scores(model, x), model(x[:, :4])
    assert logits.dtype == scores.dtype == torch.float32
    for rows in (scores, logits.softmax(-1)):
        assert all(len(set(row.tolist())) == 5 for row in rows)
        ratios = rows.log() - rows[:, :1].log()  # the logits' differences: in proportion to 1, 2, 3, 4
        assert torch.allclose(ratios[:, 1:] / ratios[:, 1:2], torch.arange(1.0, 5.0), rtol=2e-2)


def test_sums_over_units_are_in_single_precision():
    """Also of a network whose own logits are in half."""
    model, x = network(), torch.randn(1, 6, 3, 2, 32, 32)
    unit_logits, found = model.unit_logits, []
    for dtype in (torch.bfloat16, torch.float64):
        model.unit_logits = lambda *args, kind=dtype: unit_logits(*args).bfloat16().to(kind)
        found.append(video_scores(model, x))
    assert (found[0] - found[1]).abs().max() < 1e-6


@given(st.integers(1, 12), st.integers(0, 12))
def test_sections_are_consecutive_whole_and_nearly_equal(train, more):
    sections = unit_sections(train + more, train)
    assert [unit for section in sections for unit in section] == list(range(train + more))
    sizes = {len(section) for section in sections}
    assert max(sizes) - min(sizes) <= 1 and min(sizes) >= 1


@pytest.mark.parametrize("preset", ["released", "paper"])
@pytest.mark.parametrize(("infer", "train"), [(10, 4), (8, 4), (7, 3), (6, 6), (5, 1)])
@pytest.mark.parametrize(("dtype", "exact"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_the_same_scores_as_brute_force(preset, infer, train, dtype, exact):
    model = network(preset=preset, units=train, dtype=dtype)
    x = torch.randn(1, infer, 3, 2, 24, 24, dtype=dtype)
    expected = brute_force(model, x)
    assert (video_scores(model, x) - expected).abs().max() <= exact
    assert expected.std() > 1e-3  # the scores differ, so that the comparison says something


@pytest.mark.parametrize(
    ("arch", "options"),
    [
        pytest.param("v4d_resnet50", {"preset": "released"}, marks=pytest.mark.slow),
        pytest.param("v4d_resnet50", {"preset": "paper"}, marks=pytest.mark.slow),
        ("v4d_tiny", {"blocks": {"res2": [1], "res3": [1], "res4": [1], "res5": [1]}}),
        ("v4d_tiny", {"blocks": {"res5": [1]}}),
        ("v4d_tiny", {"kernel": (3, 1, 1, 1)}),
        ("v4d_tiny", {"kernel": (3, 3, 3, 3)}),
        ("v4d_tiny", {"kernel": (5, 3, 1, 1)}),
    ],
)
def test_any_positions_and_kernels(arch, options):
    model = network(arch, units=3, dtype=torch.float64, **options)
    videos, units = (1, 5) if "50" in arch else (2, 7)
    x = torch.randn(videos, units, 3, 2, 32, 32, dtype=torch.float64)
    assert (video_scores(model, x) - brute_force(model, x)).abs().max() <= 1e-10
    logits = video_scores(model, x, average="logits")
    assert (logits - brute_force(model, x, torch.clone)).abs().max() <= 1e-10


@pytest.mark.parametrize(
    ("arch", "options"),
    [
        ("i3ds_tiny", {}),
        ("v4d_tiny", {"kernel": (1, 3, 3, 3)}),
        pytest.param("i3ds_resnet18pp", {}, marks=pytest.mark.slow),
    ],
)
def test_tsn_is_the_mean_over_all_units(arch, options):
    """As TSN is tested: each unit by itself, not the combinations of several."""
    model = network(arch, units=3, dtype=torch.float64, **options)
    x = torch.randn(2, 7, 3, 2, 32, 32, dtype=torch.float64)
    for average, score in (("softmax", softmax), ("logits", torch.clone)):
        with torch.inference_mode():
            units = [score(model(x[:, unit : unit + 1])) for unit in range(7)]
        expected = torch.stack(units).mean(0)
        for combinations in (True, "all_units"):
            found = video_scores(model, x, combinations=combinations, average=average, chunk=3)
            assert (found - expected).abs().max() <= 1e-10
    assert (video_scores(model, x) - brute_force(model, x)).abs().max() > 1e-4


@pytest.mark.parametrize("preset", ["released", "paper"])
def test_all_units_pass_the_4d_blocks_together(preset):
    """The authors' test of Kinetics-400: the trained kernels over ten units, and one mean of their logits."""
    model = network(preset=preset, dtype=torch.float64)
    x = torch.randn(2, 10, 3, 2, 24, 24, dtype=torch.float64)
    with torch.inference_mode():
        expected = model(x)
    for chunk in (1, 16, 64):
        found = video_scores(model, x, combinations="all_units", average="logits", chunk=chunk)
        assert (found - expected).abs().max() <= 1e-10
    assert (video_scores(model, x, combinations="all_units") - softmax(expected)).abs().max() <= 1e-10
    assert (video_scores(model, x) - softmax(expected)).abs().max() > 1e-4


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 40), st.integers(1, 60))
def test_bounds_on_memory_change_nothing(chunk, keep):
    model = network(units=3, dtype=torch.float64)
    x = torch.randn(1, 7, 3, 2, 16, 16, dtype=torch.float64)
    found = video_scores(model, x, chunk=chunk, keep=keep)
    assert (found - video_scores(model, x)).abs().max() <= 1e-10


class LiveBytes(TorchDispatchMode):
    """The most bytes that lay in tensors at a time, besides those made before."""

    def __init__(self, *before):
        super().__init__()
        self.sizes = {tensor.untyped_storage()._cdata: 0 for tensor in before}
        self.now, self.most = 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.sizes:
                    self.sizes[storage._cdata] = storage.nbytes()
                    self.now += storage.nbytes()
                    self.most = max(self.most, self.now)
                    weakref.finalize(storage, self._freed, storage._cdata)
        return result

    def _freed(self, key):
        self.now -= self.sizes.pop(key)


@pytest.mark.slow
def test_memory_is_bounded_by_chunk_and_keep():
    """On tensors without data: `keep` units as in front of the first block, and a chunk's own needs."""
    most = {}
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = create_model("v4d_tiny", num_classes=5, units=4, frames=2, preset="released").eval()
        for infer, keep in ((4, 24), (8, 24), (8, 10**6)):
            x = torch.randn(1, infer, 3, 2, 32, 32)
            with LiveBytes(x) as live:
                video_scores(model, x, chunk=2, keep=keep)
            most[infer, keep] = live.most
    unit = 4 * 2 * 32 * 4 * 4
    bound = 24 * unit + most[4, 24]
    assert most[8, 24] <= bound < most[8, 10**6]


def test_one_pass_takes_evenly_spaced_units():
    model = network(units=4)
    x = torch.randn(1, 8, 3, 2, 24, 24)
    with torch.inference_mode():
        expected = torch.softmax(model(x[:, [0, 2, 4, 6]]), -1)
    assert torch.allclose(video_scores(model, x, combinations=False), expected, atol=1e-6)


def test_the_mode_is_put_back_and_dropout_is_off():
    model = network(dropout=0.9).train()
    x = torch.randn(1, 6, 3, 2, 16, 16)
    assert torch.equal(video_scores(model, x), video_scores(model, x)) and model.training


@pytest.mark.parametrize(
    "wrap",
    [torch.compile, nn.DataParallel, lambda m: nn.DataParallel(torch.compile(m))],
    ids=["compiled", "parallel", "both"],
)
def test_a_wrapped_network_gives_the_same(wrap):
    model = network()
    x = torch.randn(1, 6, 3, 2, 16, 16)
    assert torch.equal(video_scores(wrap(model), x), video_scores(model, x))


def test_no_videos_have_no_scores():
    assert video_scores(network(), torch.randn(0, 6, 3, 2, 16, 16)).shape == (0, 5)


@pytest.mark.parametrize(("shape", "chunk"), [((6, 3, 2, 16, 16), 16), ((1, 6, 3, 2, 16, 16), 0)])
def test_an_input_of_another_kind_is_named(shape, chunk):
    with pytest.raises(V4DError, match="N U C T H W and chunk"):
        video_scores(network(), torch.randn(shape), chunk=chunk)


def test_fewer_units_than_trained_are_refused():
    with pytest.raises(V4DError, match="3 units at test are fewer than the 4"):
        video_scores(network(), torch.randn(1, 3, 3, 2, 16, 16))


@pytest.mark.slow
def test_the_multiply_adds_of_the_released_resnet50():
    """At most 5,400 GMAC for 10 into 4 at 8x256x256, counted without data; 13,418 by brute force.

    The authors' one pass of ten units takes 932 with the padding of its 4D blocks, and TSN 545: without
    4D blocks there is nothing to combine.
    """

    def cost(arch, **how):
        with FakeTensorMode(allow_non_fake_inputs=True):
            model = create_model(arch, num_classes=400, units=4, frames=8).eval()
            with FlopCounterMode(display=False) as counter:
                video_scores(model, torch.randn(1, 10, 3, 8, 256, 256), **how)
        return counter.get_total_flops() / 2e9

    assert 2_000 < cost("v4d_resnet50") <= 5_400
    assert cost("v4d_resnet50", combinations="all_units") == pytest.approx(906, rel=2e-3)  # without padding
    assert cost("i3ds_resnet50") == pytest.approx(545.2, rel=2e-3)
    model = create_model("v4d_resnet50", num_classes=400, units=4, frames=8).eval()
    assert gmac(model, 4, 8, 256, 256) * 36 == pytest.approx(13_418, rel=1e-3)
    assert gmac(model, 10, 8, 256, 256) == pytest.approx(932, rel=1e-3)
