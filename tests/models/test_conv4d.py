"""Every form of 4D convolution against the sum of Eq. 1, in float64: results and both gradients."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.reference import conv4d_reference
from v4d.models.conv4d import Conv4d, _conv_over_ut, conv4d
from v4d.models.convolution import conv3d, conv3d_by_planes, conv_by_blocks, conv_rows
from v4d.models.layout import fold, regroup

EXACT = 1e-10
extents = st.sampled_from((1, 3, 5))
kernels = st.one_of(
    st.sampled_from([(3, 1, 1, 1), (3, 3, 1, 1), (3, 3, 3, 3), (1, 3, 3, 3)]), st.tuples(*[extents] * 4)
)
sizes = st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))


def gradients(result, x, weight):
    """The result and its gradients along a fixed direction."""
    direction = torch.randn(result.shape, generator=torch.Generator().manual_seed(1)).to(result.dtype)
    return [result.detach(), *torch.autograd.grad(result, (x, weight), direction)]


def assert_same(ours, right):
    for a, b in zip(ours, right, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= EXACT


def random(*shape):
    return torch.randn(shape, dtype=torch.float64)


@settings(deadline=None, max_examples=60)
@given(kernel=kernels, size=sizes, videos=st.integers(1, 2), more=st.sampled_from((0, 0, 1)))
def test_equals_the_sum_over_all_taps(kernel, size, videos, more):
    torch.manual_seed(0)
    x, weight = random(videos, 3, *size).requires_grad_(), random(2, 3, *kernel).requires_grad_()
    padding = tuple(extent // 2 + more for extent in kernel)
    ours = conv4d(x, weight, None if more == 0 else padding)
    right = conv4d_reference(x, weight, padding)
    assert_same(gradients(ours, x, weight), gradients(right, x, weight))


@settings(deadline=None, max_examples=20)
@given(
    kernel=st.tuples(extents, extents),
    size=sizes,
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
def test_the_form_with_one_launch_that_gpus_take(kernel, size, padding):
    """One 3D convolution over (U, T, H*W), run here on a CPU."""
    padding = tuple(max(pad, extent // 2) for pad, extent in zip(padding, kernel, strict=True))
    torch.manual_seed(0)
    x, weight = random(2, *size, 3), random(2, 3, *kernel, 1, 1).requires_grad_()
    x = x.movedim(-1, 1).requires_grad_()
    ours = _conv_over_ut(x, weight[..., 0], padding)
    right = conv4d_reference(x, weight, (*padding, 0, 0))
    assert_same(gradients(ours, x, weight), gradients(right, x, weight))


@settings(deadline=None, max_examples=20)
@given(kernel=kernels, size=sizes)
def test_channels_last_input_gives_the_same(kernel, size):
    torch.manual_seed(0)
    x, weight = random(2, *size, 3), random(2, 3, *kernel).requires_grad_()
    x = x.movedim(-1, 1).requires_grad_()  # as it lies in memory inside the network
    padding = tuple(extent // 2 for extent in kernel)
    assert_same(
        gradients(conv4d(x, weight), x, weight), gradients(conv4d_reference(x, weight, padding), x, weight)
    )


def unfold(x: torch.Tensor, units: int, frames: int) -> torch.Tensor:
    """The inverse of `fold`."""
    return regroup(x, units, frames, *x.shape[2:]).transpose(1, 2)


@settings(deadline=None, max_examples=20)
@given(kernel=kernels, size=sizes, units=st.integers(1, 3))
def test_taps_of_units_add_up_to_the_layer(kernel, size, units):
    """What Algorithm 1 adds up is the convolution: tap s of the unit s places on."""
    torch.manual_seed(0)
    _, frames, height, width = size
    layer = Conv4d(3, 2, kernel).double()
    x = fold(random(2, units, 3, frames, height, width))
    whole = unfold(layer(x, units, frames), units, frames)
    reach = kernel[0] // 2
    taps = [unfold(tap, units, frames) for tap in layer.taps(x, frames, -reach, reach)]
    for unit in range(units):
        near = range(max(0, unit - reach), min(units, unit + reach + 1))
        total = sum(taps[other - unit + reach][:, other] for other in near)
        assert (total - whole[:, unit]).abs().max() <= EXACT


@settings(deadline=None, max_examples=30)
@given(
    kernel=st.tuples(*[extents] * 3),
    size=st.tuples(*[st.integers(3, 6)] * 3),
    stride=st.sampled_from((1, 2)),
)
def test_planes_equal_conv3d(kernel, size, stride):
    """What replaces cuDNN's 3D convolutions where these are wrong."""
    torch.manual_seed(0)
    x, weight = random(2, 3, *size).requires_grad_(), random(4, 3, *kernel).requires_grad_()
    padding = tuple(extent // 2 for extent in kernel)
    right = torch.nn.functional.conv3d(x, weight, None, (1, stride, stride), padding)
    ours = conv3d_by_planes(x, weight, stride, padding)
    assert_same(gradients(ours, x, weight), gradients(right, x, weight))


@pytest.mark.parametrize(("size", "taps", "padding"), [(4, 3, 1), (1, 3, 1), (2, 5, 2), (6, 3, 0)])
def test_gradients_by_matrix_products_are_those_of_differences(size, taps, padding):
    torch.manual_seed(0)
    x, weight = random(2, 3, size, 2).requires_grad_(), random(2, 3, taps, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: conv_rows(x, w, padding), (x, weight))


@settings(deadline=None, max_examples=30)
@given(shape=st.tuples(*[st.integers(1, 4)] * 6))
def test_folding_keeps_the_order_of_units_and_frames(shape):
    x = torch.arange(torch.Size(shape).numel()).reshape(shape)
    folded = fold(x)
    _, units, _, frames, _, _ = shape
    assert torch.equal(unfold(folded, units, frames), x)
    n, u, c, t, h, w = (size - 1 for size in shape)
    assert folded[(n * shape[1] + u) * shape[3] + t, c, h, w] == x[n, u, c, t, h, w]


def test_folding_the_loaders_layout_copies_nothing():
    frames_NUTHWC = torch.randn(2, 3, 4, 8, 6, 3)
    folded = fold(frames_NUTHWC.permute(0, 1, 5, 2, 3, 4))
    assert folded.data_ptr() == frames_NUTHWC.data_ptr()
    assert folded.is_contiguous(memory_format=torch.channels_last)
    seen = regroup(folded, 3, 4, 48)  # over (U, T, H*W)
    assert seen.data_ptr() == frames_NUTHWC.data_ptr()


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_bf16_gradients_on_a_cpu_are_right(frames):
    """oneDNN's own 3D convolution leaves parts of the weight's gradient undefined at 2 frames."""
    torch.manual_seed(0)
    x, weight = torch.randn(2, 64, frames, 4, 4), torch.randn(64, 64, 3, 3, 3) / 40
    results = []
    for dtype in (torch.bfloat16, torch.float64):
        leaves = [tensor.to(dtype).requires_grad_() for tensor in (x, weight)]
        result = conv3d(*leaves, 1, (1, 1, 1))
        rubbish = [torch.full((2**size,), float("nan")) for size in range(12, 22)]
        del rubbish  # what is left in freed memory must not show
        results.append([value.double() for value in gradients(result, *leaves)])
    for ours, right in zip(*results, strict=True):
        assert (ours - right).abs().max() <= 0.03 * right.abs().max()


@given(st.integers(1, 3), st.integers(4, 12), st.integers(4, 12), st.sampled_from([3, 4]))
@settings(max_examples=20)
def test_the_stem_on_blocks_is_the_stem(count, half_height, half_width, channels):
    torch.manual_seed(half_height)
    x = torch.randn(count, channels, 2 * half_height, 2 * half_width, dtype=torch.float64).requires_grad_()
    weight = torch.randn(5, channels, 7, 7, dtype=torch.float64).requires_grad_()
    right = F.conv2d(x, weight, stride=2, padding=3)
    found = conv_by_blocks(x.to(memory_format=torch.channels_last), weight)
    torch.testing.assert_close(found, right)
    given = torch.randn_like(right)
    gradients = [torch.autograd.grad(y, (x, weight), given) for y in (found, right)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)
