"""What a stage starts from: each kind of file, what stays new, and what is refused."""

import copy
import itertools

import pytest
import torch
import torchvision

from tests.support import training
from tests.support.project import TINY
from v4d import config as configs
from v4d.errors import V4DError
from v4d.models import create_model, freeze
from v4d.models.checkpoint import save_model
from v4d.training.init_weights import load_initial, weights_digest
from v4d.training.step import TrainStep

CLASSES = ["archery", "bowling", "yoga"]


def network(arch: str, classes: int = 3, seed: int = 0, **options):
    torch.manual_seed(seed)
    model = create_model(arch, num_classes=classes, units=2, frames=2, **options)
    for parameter in model.parameters():  # also what is made as zero
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def network_of_noise(arch: str, **options):
    """A new network of the paper's preset for the videos of `training`."""
    torch.manual_seed(0)
    shape = {"num_classes": 3, "units": 2, "frames": 2, "preset": "paper", "dropout": 0.0}
    return create_model(arch, **shape, **options).train()


def saved(tmp_path, model, classes=CLASSES, freeze=()):
    path = tmp_path / "before.pt"
    info = {"stage": {"freeze": list(freeze)}} if freeze else {}
    save_model(path, model, architecture=model.spec, classes=classes, info=info)
    return path


def test_the_stage_before_is_taken_over_whole(tmp_path):
    before, model = network("v4d_tiny"), network("v4d_tiny", seed=1)
    assert load_initial(model, saved(tmp_path, before), CLASSES) == ""
    assert all(
        torch.equal(a, b)
        for a, b in zip(before.state_dict().values(), model.state_dict().values(), strict=True)
    )


NETWORKS = {
    "i3ds_tiny": {},
    "v4d_tiny": {},
    "v4d_tiny paper": {"preset": "paper"},
    "v4d_tiny otherwise": {"normalisation": "pytorchvideo"},
    "i3ds_resnet18": {},
    "i3ds_resnet18pp": {},
}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(*pair, marks=[pytest.mark.slow] if "resnet" in "".join(pair) else [])
        for pair in itertools.product(NETWORKS, repeat=2)
        if "resnet" not in "".join(pair) or pair[0] < pair[1]
    ],
)
def test_the_config_refuses_those_stages_behind_which_the_next_cannot_start(tmp_path, before, after):
    one, two = ({"arch": name.split()[0]} | NETWORKS[name] for name in (before, after))
    model = {"stages": [{"name": "one", **one}, {"name": "two", **two}]}
    refused = []
    for check in (
        lambda: configs.resolve(configs.merge(TINY, {"models": {"v4d": model}})),
        lambda: load_initial(network(**two), saved(tmp_path, network(**one)), CLASSES),
    ):
        try:
            check()
        except V4DError as error:
            assert "init: " in str(error)
            refused.append(check)
    assert len(refused) != 1, (before, after)


def test_a_checkpoint_of_a_training_is_taken_over_too(tmp_path):
    """Its averaged weights, where it has such: what was validated."""
    before, average = network("v4d_tiny"), network("v4d_tiny", seed=2)
    identity = {"architecture": before.spec, "classes": CLASSES, "dataset": "f"}
    state = {"format": 1, "identity": identity, "info": {}, "model": before.state_dict()}
    for extra, expected in (({}, before), ({"average": average.state_dict()}, average)):
        torch.save(state | extra, tmp_path / "best.pt")
        model = network("v4d_tiny", seed=1)
        assert load_initial(model, tmp_path / "best.pt", CLASSES) == ""
        assert torch.equal(model.fc.weight, expected.fc.weight)


@pytest.mark.parametrize(
    ("preset", "start"), [("paper", None), ("released", None), ("paper", {"kernel": "zero"})]
)
def test_blocks_that_a_stage_held_at_zero_start_as_new_ones(tmp_path, preset, start):
    """With `kernel: zero` as they did before there was a choice: from what the file has of them."""
    before = network("v4d_tiny", preset=preset)
    freeze(before, "blocks4d_zero")
    torch.manual_seed(5)
    model = create_model("v4d_tiny", num_classes=3, units=2, frames=2, preset=preset, start4d=start)
    own = copy.deepcopy(model.state_dict())
    words = load_initial(model, saved(tmp_path, before, freeze=["blocks4d_zero"]), CLASSES)
    assert words == "4D blocks"
    for name, value in model.state_dict().items():
        right = own if "blocks4d" in name else before.state_dict()
        assert torch.equal(value, right[name]), name
        if "blocks4d" in name and start:
            assert torch.equal(value, before.state_dict()[name]), name
    load_initial(model, saved(tmp_path, network("v4d_tiny", preset=preset), freeze=["backbone"]), CLASSES)
    assert all(block.conv.weight.std() > 0.05 for block in model.blocks4d().values())  # these are taken over


@pytest.mark.slow
def test_a_stage_of_zero_blocks_is_tsn_and_the_next_one_disturbs_it_less_than_kernels_from_zero(tmp_path):
    """Training V4D with its blocks held at zero is training TSN, bit for bit, so a stage needs no blocks.

    Then the blocks are trained: new kernels change the loss less before their first step than kernels from
    zero do behind theirs, which batch norm makes as large as any (0.013 -> 0.035, and 0.013 -> 0.905).
    """
    batches = [training.videos(16, seed=number) for number in range(4)]

    def step(model, lr, seen):
        settings = training.stage(optimizer={"lr": lr}, clip_grad_norm=20)
        trainer = TrainStep(model, settings, training.ALONE, seed=0)
        return [float(trainer.step([batch], 0, n, 0.0)[0]) / 16 for n, batch in enumerate(seen)]

    tsn, held = network_of_noise("i3ds_tiny"), network_of_noise("v4d_tiny")
    held.load_state_dict(tsn.state_dict(), strict=False)
    freeze(held, "blocks4d_zero")
    assert step(tsn, 0.05, 4 * batches) == step(held, 0.05, 4 * batches)
    for name, value in tsn.state_dict().items():
        assert torch.equal(value, held.state_dict()[name]), name

    losses = {}
    for kernel in ("random", "zero"):
        model = network_of_noise("v4d_tiny", start4d={"kernel": kernel})
        load_initial(model, saved(tmp_path, held, freeze=["blocks4d_zero"]), CLASSES)
        losses[kernel] = step(model, 0.01, 2 * batches[:1])
    settled = losses["zero"][0]  # as the stage before left it
    assert losses["random"][0] - settled < (losses["zero"][1] - settled) / 3


def test_a_digest_tells_weights_and_nothing_else(tmp_path):
    model = network("v4d_tiny")
    first = weights_digest(saved(tmp_path, model))
    save_model(tmp_path / "b.pt", model, architecture=model.spec, classes=CLASSES, info={"git_sha": "x"})
    assert weights_digest(tmp_path / "b.pt") == first
    model.stem.bn.num_batches_tracked += 1
    assert weights_digest(saved(tmp_path, model)) != first


def test_a_backbone_leaves_the_4d_blocks_new(tmp_path):
    before, model = network("i3ds_tiny"), create_model("v4d_tiny", num_classes=3, units=2, frames=2)
    new = {name: value.clone() for name, value in model.state_dict().items() if "blocks4d" in name}
    assert load_initial(model, saved(tmp_path, before), CLASSES) == "4D blocks"
    assert new and all(torch.equal(model.state_dict()[name], value) for name, value in new.items())
    assert torch.equal(model.stem.conv.weight, before.stem.conv.weight)
    assert torch.equal(model.fc.weight, before.fc.weight)


@pytest.mark.parametrize("classes", [CLASSES[::-1], CLASSES[:2]], ids=["another order", "fewer"])
def test_a_classifier_of_other_classes_stays_new(tmp_path, classes):
    before, model = network("i3ds_tiny", len(classes)), network("i3ds_tiny", seed=1)
    own = model.fc.weight.detach().clone()
    assert load_initial(model, saved(tmp_path, before, classes), CLASSES) == "classifier"
    assert torch.equal(model.fc.weight, own)
    assert torch.equal(model.stem.conv.weight, before.stem.conv.weight)


def test_torchvision_s_file_is_inflated(tmp_path):
    torch.manual_seed(0)
    flat = torchvision.models.resnet18(weights=None)
    torch.save(flat.state_dict(), tmp_path / "resnet18.pth")
    model = network("v4d_resnet18")
    assert load_initial(model, tmp_path / "resnet18.pth", CLASSES) == "classifier and 4D blocks"
    assert torch.equal(model.stem.bn.weight, flat.bn1.weight)


@pytest.mark.slow
def test_a_released_checkpoint(tmp_path):
    """Written with the authors' names; 200 classes mean the Mini-Kinetics networks."""
    from v4d.models.state_dict_names import foreign_names

    theirs = network("v4d_resnet18", 200)
    names = foreign_names(theirs, with_blocks4d=True)
    tensors = {f"module.base_model.{name}": theirs.state_dict()[ours] for ours, name in names.items()}
    for name in [name for name in tensors if name.endswith(".tsa.weight")]:
        tensors[name] = tensors[name].squeeze(-1)
    for kind in ("weight", "bias"):
        tensors[f"module.new_fc.{kind}"] = theirs.state_dict()[f"fc.{kind}"]
    torch.save({"epoch": 1, "state_dict": tensors}, tmp_path / "released.pth.tar")
    model = network("v4d_resnet18", seed=1)
    assert load_initial(model, tmp_path / "released.pth.tar", CLASSES) == "classifier"
    assert torch.equal(model.stem.conv.weight, theirs.stem.conv.weight)
    assert all(
        torch.equal(mine.conv.weight, other.conv.weight)
        for mine, other in zip(model.blocks4d().values(), theirs.blocks4d().values(), strict=True)
    )


@pytest.mark.slow
def test_what_does_not_fit_is_one_line(tmp_path):
    other = saved(tmp_path, network("i3ds_resnet18"))
    with pytest.raises(
        V4DError, match=r"before.pt does not fit i3ds_tiny: \S+ is missing or has another shape"
    ):
        load_initial(network("i3ds_tiny"), other, CLASSES)
    with pytest.raises(V4DError, match="no such checkpoint"):
        load_initial(network("i3ds_tiny"), tmp_path / "absent.pt", CLASSES)
    torch.save({"weights": torch.zeros(2)}, tmp_path / "odd.pt")
    with pytest.raises(V4DError, match="holds no 2D network of i3ds_resnet18"):
        load_initial(network("i3ds_resnet18"), tmp_path / "odd.pt", CLASSES)
