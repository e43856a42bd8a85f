"""Checkpoints of the authors: the same logits, both layouts, and what is refused."""

import json
import os

import pytest
import torch

from tests.support.project import assert_one_line_error, run
from tests.support.reference import (
    made_up,
    made_up_weights,
    released_example,
    released_logits,
    released_resnet18_shapes,
)
from v4d.errors import V4DError
from v4d.models import load_released, parameter_count
from v4d.models.checkpoint import load_model
from v4d.models.released import class_order

TOLERANCE = 1e-4


def checkpoint(weights):
    return {"epoch": 3, "arch": "i3dresnet50", "best_prec1": torch.tensor(77.4), "state_dict": weights}


@pytest.fixture(scope="module")
def resnet18():
    return made_up_weights(released_resnet18_shapes(200))


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["5d", "6d"])
def test_logits_of_the_released_resnet50(layout):
    example = released_example(layout)
    model = load_released(checkpoint(made_up_weights(example["shapes"])), units=example["units"])
    x = made_up(example["input_key"], example["input_shape_NUCTHW"])
    with torch.no_grad():
        logits = model(x)
    assert (logits - torch.tensor(example["logits"])).abs().max() <= TOLERANCE
    assert model.frames == example["frames"]
    assert model.spec["blocks"] == {"res3": [2, 4]}
    assert not model.training
    if layout == "5d":
        assert parameter_count(model) == 37_172_688


def test_logits_of_a_released_resnet18(resnet18):
    """No example of the authors' own: held against their network rebuilt from its description."""
    x = made_up("input", (2, 4, 3, 4, 64, 64))
    model = load_released(resnet18, units=4)
    assert model.spec["arch"] == "v4d_resnet18"
    with torch.no_grad():
        assert (model(x) - released_logits(resnet18, x)).abs().max() <= TOLERANCE


def test_the_rebuilt_network_is_the_authors():
    """What the ResNet-18 is held against gives the authors' own logits as ResNet-50."""
    example = released_example("6d")
    x = made_up(example["input_key"], example["input_shape_NUCTHW"])
    with torch.no_grad():
        logits = released_logits(made_up_weights(example["shapes"]), x)
    assert (logits - torch.tensor(example["logits"])).abs().max() <= TOLERANCE


@pytest.mark.slow
def test_any_wrapping_of_the_same_weights(resnet18, tmp_path):
    bare = {name.removeprefix("module."): value for name, value in resnet18.items()}
    five_d = {
        name: value.permute(1, 2, 0, 3, 4, 5).squeeze(-1) if value.dim() == 6 else value
        for name, value in bare.items()
    }
    old = {name: value for name, value in bare.items() if not name.endswith("num_batches_tracked")}
    torch.save(checkpoint(resnet18), tmp_path / "new.pth.tar")
    torch.save(checkpoint(old), tmp_path / "old.pth.tar", _use_new_zipfile_serialization=False)
    right = load_released(resnet18, units=4).state_dict()
    for source in (bare, five_d, old, checkpoint(bare), tmp_path / "new.pth.tar", tmp_path / "old.pth.tar"):
        model = load_released(source, units=4)
        assert all(torch.equal(value, right[name]) for name, value in model.state_dict().items())
    without = {name: value for name, value in bare.items() if "tsa" not in name}
    assert "layer2.2.tsa.weight" not in without
    assert load_released(without, units=4).spec["arch"] == "i3ds_resnet18"


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (
            lambda w: w.pop("module.base_model.layer3.1.bn2.bias"),
            ["missing module.base_model.layer3.1.bn2.bias"],
        ),
        (lambda w: w.pop("module.base_model.layer3.2.tsa.weight"), ["missing", "layer3.2.tsa.weight"]),
        (lambda w: w.pop("module.new_fc.weight"), ["missing", "new_fc.weight"]),
        (lambda w: w.update({"module.extra": torch.ones(1)}), ["unexpected module.extra"]),
        (
            lambda w: w.update(
                {"module.base_model.layer9.0.weight": w.pop("module.base_model.conv1.weight")}
            ),
            ["missing module.base_model.conv1.weight", "unexpected module.base_model.layer9.0.weight"],
        ),
        (
            lambda w: w.update({"module.base_model.conv1.weight": torch.ones(64, 3, 1, 5, 5)}),
            ["module.base_model.conv1.weight", "(64, 3, 1, 5, 5)"],
        ),
        (
            lambda w: w.update({"module.base_model.layer2.2.tsa.weight": torch.ones(2, 2)}),
            ["tsa.weight", "(2, 2"],
        ),
        (lambda w: w.update({"module.new_fc.weight": torch.tensor(1.0)}), ["new_fc.weight", "()"]),
        (lambda w: w.update({7: torch.ones(1)}), ["no state dict"]),
        (lambda w: w.update({"module.new_fc.bias": torch.ones(200).to_sparse()}), ["no state dict"]),
    ],
)
def test_a_mismatch_names_the_first_tensor(resnet18, change, parts):
    weights = dict(resnet18)
    change(weights)
    with pytest.raises(V4DError) as caught:
        load_released(weights, units=4)
    assert all(part in str(caught.value) for part in parts), caught.value


class Intruder:
    """A pickle that leaves a file behind when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    torch.save({"state_dict": Intruder(tmp_path / "was_here")}, tmp_path / "bad.pth.tar")
    done = run("import-released", "bad.pth.tar", "--out", "model.pt", cwd=tmp_path, check=False)
    assert_one_line_error(done, "bad.pth.tar", "mkdir", "run code")
    assert not (tmp_path / "was_here").exists()
    assert not (tmp_path / "model.pt").exists()


def test_files_that_are_no_checkpoints(tmp_path):
    (tmp_path / "text.pt").write_text("hello")
    torch.save([1, 2], tmp_path / "list.pt")
    for name in ("absent.pt", "text.pt", "list.pt"):
        with pytest.raises(V4DError, match=name):
            load_released(tmp_path / name, units=4)


@pytest.mark.slow
def test_import_puts_classes_into_order(resnet18, tmp_path):
    """The network gives a video the same class by name, whichever order its outputs have."""
    from v4d.datasets import released_classes

    theirs = released_classes(200)
    converter = {released_classes().index(name): index for index, name in enumerate(theirs)}
    (tmp_path / "converter.json").write_text(json.dumps(converter))
    torch.save(checkpoint(resnet18), tmp_path / "released.pth.tar")
    x = made_up("input", (1, 4, 3, 2, 32, 32))
    with torch.no_grad():
        logits = load_released(resnet18, units=4)(x)[0]
    by_name = dict(zip(theirs, logits.tolist(), strict=True))
    for options in ([], ["--converter", "converter.json"]):
        run("import-released", "released.pth.tar", "--out", "model.pt", *options, cwd=tmp_path)
        saved = load_model(tmp_path / "model.pt")
        assert saved.classes == sorted(theirs)
        assert saved.info["stage"]["frame_stride"] == 8
        with torch.no_grad():
            ours = saved.model(x)[0].tolist()
        assert dict(zip(saved.classes, ours, strict=True)) == pytest.approx(by_name, abs=1e-6)


@pytest.mark.parametrize("content", ['{"0": 0}', '{"a": 1}', "[1]", '{"0": 0, "1": 0}'])
def test_a_converter_of_other_classes_is_refused(tmp_path, content):
    (tmp_path / "converter.json").write_text(content)
    with pytest.raises(V4DError, match=r"converter\.json"):
        class_order(tmp_path / "converter.json", 200)
