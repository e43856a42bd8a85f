"""Every architecture, forward and backward, in every mode of running it; and the laws of V4D."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from tests.support.processes import in_ranks
from tests.support.reference import conv4d_reference
from v4d.errors import V4DError
from v4d.models import create_model, freeze, unfreeze, v4d
from v4d.models.layers import Residual4D
from v4d.models.layout import fold, regroup
from v4d.models.registry import MODELS, RESNETS
from v4d.models.v4d import PRESETS

UNITS, FRAMES, CLASSES = 2, 2, 5
BF16 = 0.03
"""Largest difference of a logit in bf16, relative to the largest one; 0.007 to 0.010 was seen."""

BACKBONES = {arch for arch in RESNETS if arch.startswith("i3ds_resnet") and f"v4d{arch[4:]}" in RESNETS}
"""All of their layers are in the V4D network of the same depth: what takes long is tried there."""


def sized(archs, long=()):
    """Architectures as parameters: all but the tiny ones take seconds."""
    marks = {arch: pytest.mark.long if arch in long else pytest.mark.slow for arch in archs}
    return [pytest.param(arch, marks=() if arch.endswith("tiny") else marks[arch]) for arch in archs]


def network(arch, preset="paper", **options):
    torch.manual_seed(0)
    options = {"num_classes": CLASSES, "units": UNITS, "frames": FRAMES, "dropout": 0.0} | options
    model = create_model(arch, preset=preset, **options)
    torch.nn.init.normal_(model.fc.weight, std=0.1)  # the initial classifier says almost nothing
    return model


def videos(count=2, units=UNITS, frames=FRAMES, height=32, width=32):
    return torch.randn(count, units, 3, frames, height, width, generator=torch.Generator().manual_seed(1))


def randomise_blocks4d(model):
    """Kernels and batch norms that do something, as after training."""
    generator = torch.Generator().manual_seed(2)
    for block in model.blocks4d().values():
        torch.nn.init.normal_(
            block.conv.weight, std=block.conv.weight[0].numel() ** -0.5, generator=generator
        )
        if block.bn is not None:
            block.bn.running_mean.normal_(0, 0.1, generator=generator)
            torch.nn.init.normal_(block.bn.bias, std=0.1, generator=generator)
    return model


def step(model, x):
    """Loss, and gradients of all parameters by name."""
    loss = F.cross_entropy(model(x), torch.arange(len(x)) % CLASSES)
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("arch", sized(RESNETS))
def test_forward_and_backward(arch, preset):
    model = network(arch, preset)
    for size in ((32, 32), (40, 56)):
        assert model(videos(1, height=size[0], width=size[1])).shape == (1, CLASSES)
    _, gradients = step(model, videos())
    assert all(gradient.abs().max() > 0 for name, gradient in gradients.items() if "bn.weight" not in name)
    assert (model.units, model.num_classes) == (UNITS, CLASSES)
    again = create_model(**model.spec)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(videos()), model.eval()(videos()))


def test_a_4d_kernel_that_starts_at_zero_learns():
    """The printed form ends in a ReLU, whose derivative at zero would keep the kernel there for ever."""
    model = network("v4d_tiny", "paper", start4d={"kernel": "zero"})
    kernels = [block.conv.weight for block in model.blocks4d().values()]
    assert all(kernel.abs().max() == 0 for kernel in kernels)
    step(model, videos())
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    assert all(kernel.abs().max() > 0 for kernel in kernels)


def test_a_start_is_chosen_and_changes_nothing_else():
    usual, other = network("v4d_tiny"), network("v4d_tiny", start4d={"kernel": "zero", "norm_weight": 0.25})
    for name, value in other.state_dict().items():
        if "blocks4d" not in name:
            assert torch.equal(value, usual.state_dict()[name])
    for block in other.blocks4d().values():
        assert block.conv.weight.abs().max() == 0 and (block.bn.weight == 0.25).all()
    assert other.spec == usual.spec  # a start is not part of what the network is
    factors = network("v4d_tiny", start4d={"norm_lr_factor": 10}).lr_factors()
    assert factors == {f"{stage}.blocks4d.1.bn.weight": 10 for stage in ("res3", "res4")}


@pytest.mark.parametrize("preset", PRESETS)
def test_the_4d_block_is_as_printed_or_as_released(preset):
    """X + relu(bn(conv4d(X))) in the paper, X + conv4d(X) in the code; here from the sum of Eq. 1."""
    model = randomise_blocks4d(network("v4d_tiny", preset)).eval()
    block = model.blocks4d()["res3.1"]
    x_NUCTHW = torch.randn(2, 3, 32, 2, 5, 4)
    with torch.no_grad():
        found = regroup(block(fold(x_NUCTHW), 3, 2), 3, 2, 5, 4).transpose(1, 2)
        y = conv4d_reference(x_NUCTHW.transpose(1, 2), block.conv.weight, (1, 1, 0, 0)).transpose(1, 2)
        if preset == "paper":
            y = block.bn(y.movedim(2, 1).flatten(2).unsqueeze(-1))
            y = y.relu().reshape(2, 32, 3, 2, 5, 4).movedim(1, 2)
    torch.testing.assert_close(found, x_NUCTHW + y, rtol=0, atol=1e-5)


def test_what_the_presets_start_from():
    """PyTorch's default in the kernels, weight 1 in the batch norms; the classifier almost nothing."""
    for preset in PRESETS:
        model = create_model("v4d_resnet18", num_classes=200, units=2, frames=2, preset=preset)
        for block in model.blocks4d().values():
            fan_in = block.conv.weight[0].numel()
            assert (block.bn is not None) == (preset == "paper")
            expected = (1 / 3 / fan_in) ** 0.5  # uniform up to fan_in**-0.5
            assert block.conv.weight.std().item() == pytest.approx(expected, rel=0.02)
            assert block.bn is None or (block.bn.weight == 1).all()
        assert model.fc.weight.std().item() == pytest.approx(0.001, rel=0.02)
        assert model.fc.bias.abs().max() == 0


def test_the_extra_convolution_of_r18pp_is_no_4d_block():
    """Neither its start, nor what may be frozen, nor what messages call it."""
    model = network("i3ds_resnet18pp", "paper")
    extra = model.res4.blocks4d["2"]
    assert extra.conv.weight.std() > 0 and not model.blocks4d()
    assert set(model.freezable()) == {"backbone", "batchnorm"} == set(MODELS["i3ds_resnet18pp"].freezable)
    freeze(model, "backbone")
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["fc.weight", "fc.bias"]
    assert not extra.training
    assert set(model.new_in_init().values()) == {"classifier", "extra convolution"}
    assert "res4.2 extra" in model.parts()
    with pytest.raises(V4DError, match="cannot freeze 'blocks4d_zero'; choose from backbone, batchnorm"):
        freeze(model, "blocks4d_zero")


def test_dropout_is_a_mask_a_unit_as_released_or_one_a_video_as_in_the_paper():
    """With a classifier that adds up, as many values as are kept come out: of U*C, or of C."""
    for preset, masks in (("released", 3), ("paper", 1)):
        model = create_model("v4d_tiny", num_classes=1, units=3, frames=2, preset=preset, dropout=0.5)
        torch.nn.init.ones_(model.fc.weight)
        features = torch.ones(3 * 2, 128, 2, 2)
        sums = {round(model.head(features, 3, 2).item() * masks / 2, 3) for _ in range(40)}
        assert all(kept == round(kept) and 0.3 < kept / (128 * masks) < 0.7 for kept in sums)
        if masks == 3:
            assert any(kept % 3 for kept in sums)  # the units do not share a mask


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("arch", sized(["v4d_resnet18", "v4d_resnet50", "v4d_tiny"]))
def test_with_4d_kernels_at_zero_it_is_tsn_bit_for_bit(arch, preset):
    model = randomise_blocks4d(network(arch, preset)).eval()
    tsn = network(arch.replace("v4d", "i3ds"), preset).eval()
    missing = tsn.load_state_dict(
        {name: value for name, value in model.state_dict().items() if "blocks4d" not in name}
    )
    assert not missing.missing_keys
    x = videos(units=3)
    backwards = x.flip(1)
    assert not torch.allclose(model(x), tsn(x), rtol=1e-3)
    assert not torch.allclose(model(x), model(backwards), rtol=1e-3)  # the order of units matters
    freeze(model, "blocks4d_zero")
    assert torch.equal(model(x), tsn(x))
    torch.testing.assert_close(model(x), model(backwards))
    model.train(), tsn.train()
    assert torch.equal(model(x), tsn(x))


def test_frozen_parts_stay_as_they_are_until_unfrozen():
    model = randomise_blocks4d(network("v4d_tiny", "paper"))
    fixed = {
        "blocks4d_zero": lambda name: "blocks4d" in name,
        "backbone": lambda name: "blocks4d" not in name and not name.startswith("fc."),
        "batchnorm": lambda name: "blocks4d" not in name and (".bn" in name or "downsample.1" in name),
    }
    for what, is_fixed in fixed.items():
        freeze(model, what)
        model.train()
        before = copy.deepcopy(model.state_dict())
        optimiser = torch.optim.SGD(
            [parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1
        )
        step(model, videos())
        optimiser.step()
        changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        assert changed
        assert not {name for name in changed if is_fixed(name)}
        unfreeze(model, what)
        assert all(parameter.requires_grad for parameter in model.parameters())
        model.train()
        assert all(module.training for module in model.modules())
    freeze(model, "backbone")
    freeze(model, "batchnorm")
    unfreeze(model, "backbone")
    assert not model.stem.bn.weight.requires_grad
    assert model.stem.conv.weight.requires_grad


@pytest.mark.parametrize("arch", sized(RESNETS, long=BACKBONES))
def test_bf16_channels_last_and_checkpointing(arch):
    model = randomise_blocks4d(network(arch))
    x = videos()
    loss, gradients = step(model, x)
    statistics = copy.deepcopy(model.state_dict())

    again = randomise_blocks4d(network(arch))
    again.gradient_checkpointing = True
    loss_again, gradients_again = step(again, x)
    assert loss_again == loss
    assert all(torch.equal(gradients[name], gradients_again[name]) for name in gradients)
    after = again.state_dict()  # repeated steps must not count a batch twice
    assert all(torch.equal(statistics[name], after[name]) for name in statistics)

    model.zero_grad()
    model = model.to(memory_format=torch.channels_last).eval()
    right = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(x)
        F.cross_entropy(logits, torch.tensor([0, 1])).backward()
    assert logits.dtype == torch.float32  # the classifier's, from features in bf16
    assert (logits - right).abs().max() <= BF16 * right.abs().max()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.long)])
@pytest.mark.parametrize("arch", sized(RESNETS))
def test_compiles_as_one_graph(arch, backend):
    """Captured, and differentiated ahead of time; the code generator behind it is PyTorch's own business."""
    model = randomise_blocks4d(network(arch))
    loss, gradients = step(model, videos())
    model.zero_grad()
    compiled_loss, compiled = step(torch.compile(model, backend=backend, fullgraph=True), videos())
    torch._dynamo.reset()
    assert compiled_loss == pytest.approx(loss, rel=1e-4)
    for name, gradient in gradients.items():
        ours = (
            compiled[name.removeprefix("_orig_mod.")] if name in compiled else compiled[f"_orig_mod.{name}"]
        )
        assert (ours - gradient).abs().max() <= 1e-3 * gradient.abs().max() + 1e-6, name


@pytest.mark.slow
def test_compiled_with_checkpointing():
    """In float64, where equal is equal; a batch norm counts each batch once here as well."""
    model = randomise_blocks4d(network("v4d_tiny")).double()
    x = videos().double()
    again = copy.deepcopy(model)
    again.gradient_checkpointing = True
    loss, gradients = step(model, x)
    compiled = torch.compile(again, backend="aot_eager", fullgraph=True)
    compiled_loss = F.cross_entropy(compiled(x), torch.arange(len(x)) % CLASSES)
    compiled_loss.backward()
    torch._dynamo.reset()
    assert compiled_loss.item() == pytest.approx(loss, abs=1e-12)
    for name, parameter in again.named_parameters():
        assert (parameter.grad - gradients[name]).abs().max() <= 1e-10, name
    for ours, right in zip(again.buffers(), model.buffers(), strict=True):
        assert torch.allclose(ours, right, rtol=0, atol=1e-12)


DDP_FIRST = ("v4d_tiny", "i3ds_tiny", "v4d_resnet50")
"""With both kinds of residual blocks, with 4D blocks and without."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "archs", [DDP_FIRST, pytest.param(sorted({*RESNETS} - {*DDP_FIRST}), marks=pytest.mark.long)]
)
def test_every_architecture_under_ddp(archs):
    in_ranks(2, _ddp_rank, archs)


def _ddp_rank(ranks, archs):
    """All processes end with the same gradients: the mean of what each computes on its videos."""
    shares = videos(ranks.size).split(1)
    for arch in archs:
        model = DistributedDataParallel(network(arch))
        _, gradients = step(model, shares[ranks.rank])
        checksum = torch.stack([gradient.double().norm() for gradient in gradients.values()])
        everywhere = [torch.zeros_like(checksum) for _ in range(ranks.size)]
        torch.distributed.all_gather(everywhere, checksum)
        assert checksum.abs().max() > 0
        assert torch.equal(everywhere[0], everywhere[1]), arch
        if arch == "v4d_tiny":
            alone = [step(network(arch), share)[1] for share in shares]
            for name, gradient in gradients.items():
                mean = sum(one[name.removeprefix("module.")] for one in alone) / ranks.size
                assert (gradient - mean).abs().max() <= 1e-4 * mean.abs().max() + 1e-7, name


def test_places_and_kernels_of_4d_blocks():
    model = network("v4d_resnet50", "paper")
    assert list(model.blocks4d()) == ["res3.2", "res3.4", "res4.2", "res4.4", "res4.6"]
    assert list(network("v4d_resnet50", "released").blocks4d()) == ["res3.2", "res3.4"]
    for kernel in ((3, 1, 1, 1), (3, 3, 1, 1), (3, 3, 3, 3)):
        model = network("v4d_tiny", blocks={"res5": [1], "res2": [1]}, kernel=kernel)
        assert list(model.blocks4d()) == ["res2.1", "res5.1"]
        assert all(block.conv.weight.shape[2:] == kernel for block in model.blocks4d().values())
        assert step(model, videos())[0] > 0
    assert network("v4d_tiny", blocks={}).blocks4d() == {}


@pytest.mark.parametrize(
    ("arch", "options", "parts"),
    [
        ("v4d_resnet34", {}, ["v4d_resnet34", "v4d_resnet50"]),
        ("v4d_tiny", {"preset": "printed"}, ["printed", "paper", "released"]),
        ("v4d_tiny", {"blocks": {"layer2": [1]}}, ["layer2", "res3"]),
        ("v4d_resnet50", {"blocks": {"res3": [2, 5]}}, ["5", "res3", "1 to 4"]),
        ("v4d_resnet50", {"blocks": {"res3": [0]}}, ["0", "res3", "1 to 4"]),
        ("v4d_resnet50", {"blocks": {"res3": [2, 2]}}, ["res3", "twice"]),
        ("i3ds_resnet18", {"blocks": {"res3": [2]}}, ["i3ds_resnet18", "v4d"]),
        ("v4d_tiny", {"kernel": (3, 2, 1, 1)}, ["odd", "(3, 2, 1, 1)"]),
        ("v4d_tiny", {"kernel": (3, 3, 1)}, ["4 items", "(3, 3, 1)"]),
        ("v4d_tiny", {"units": 0}, ["units", "0"]),
        ("v4d_tiny", {"start4d": {"norm_weight": 1.5}}, ["start4d.norm_weight", "1.5"]),
        ("v4d_tiny", {"preset": "released", "start4d": {"norm_weight": 0.5}}, ["start4d", "preset paper"]),
    ],
)
def test_a_mistake_is_named_with_the_choices(arch, options, parts):
    with pytest.raises(V4DError) as caught:
        network(arch, **{"preset": "paper"} | options)
    assert all(part in str(caught.value) for part in parts), caught.value


@pytest.mark.parametrize("sides", [(32, 48), (33, 48)])
def test_a_gpu_s_stem_works_on_blocks_where_sides_are_even(monkeypatch, sides):
    """It is fast there; the values are the same."""
    torch.manual_seed(0)
    stem = v4d.Stem(8, 7).double().eval()
    frames = torch.randn(2, 3, *sides, dtype=torch.float64)
    expected, used = stem(frames, 1, 2), []
    by_blocks = v4d.conv_by_blocks
    monkeypatch.setattr(v4d, "conv_by_blocks", lambda *given: used.append(1) or by_blocks(*given))
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    torch.testing.assert_close(stem(frames, 1, 2), expected)
    assert bool(used) == (sides[0] % 2 == 0)


def test_the_paper_s_4d_block_stays_channels_last():
    """Its ReLU too, forward and backward; else every layer around it works on strided memory."""
    block = Residual4D(8, (3, 3, 1, 1), batch_norm=True)
    x = torch.randn(2 * 3 * 4, 8, 6, 5).to(memory_format=torch.channels_last).requires_grad_()
    seen = []
    block.bn.register_full_backward_hook(lambda module, into, outof: seen.append(outof[0]))
    y = block(x, 3, 4)
    y.backward(torch.randn_like(y))
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in (y, x.grad, *seen))
    assert len(seen) == 1
