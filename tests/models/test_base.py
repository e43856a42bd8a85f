"""What every network of `MODELS` keeps, and that nothing outside of `v4d.models` asks which one it is."""

import re
from pathlib import Path

import pytest
import torch

from v4d.errors import V4DError
from v4d.models import MODELS, create_model
from v4d.models.base import InputSpec, check_crop, unwrapped
from v4d.models.v4d import NORMALISATIONS

ROOT = Path(__file__).parents[2]
PARTICULAR = r"\bVideoNet\b|\bResidual4D\b|\bblocks4d\b|startswith\([\"'](v4d|i3ds)_?[\"']\)"
"""Names of particular networks and their insides."""


@pytest.mark.parametrize("arch", MODELS)
def test_a_network_keeps_what_its_entry_and_its_class_say(arch):
    torch.manual_seed(0)
    model = create_model(arch, num_classes=5, units=2, frames=2).eval()
    assert tuple(model.freezable()) == MODELS[arch].freezable
    assert (model.units, model.frames, model.num_classes) == (2, 2, 5)
    assert create_model(**model.spec).spec == model.spec
    assert all(any(name.startswith(prefix) for name in model.state_dict()) for prefix in model.new_in_init())
    assert model.get_submodule(model.classifier).weight.shape[0] == 5
    x = torch.randn(1, 2, 3, 2, 32, 32)
    with torch.inference_mode():
        logits = model(x)
        if model.unit_steps() is not None:
            features = model.forward_features(x)
            torch.testing.assert_close(model.head(features, 2, 2), logits)
            torch.testing.assert_close(model.unit_logits(features, 2).mean(0, keepdim=True), logits)


def test_no_other_room_knows_a_particular_network():
    files = [path for path in (ROOT / "v4d").rglob("*.py") if "models" not in path.relative_to(ROOT).parts]
    files += [path for path in (ROOT / "benchmarks").glob("*.py") if path.name != "_released_way.py"]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(PARTICULAR, line)
    ]
    assert found == []


def test_frames_of_a_size_that_a_network_does_not_take_are_refused(monkeypatch):
    model = create_model("i3ds_tiny", num_classes=5, units=1, frames=2)
    check_crop(model, 77, "training.crop.size")
    model.input = InputSpec(crop=224)
    check_crop(model, 224, "training.crop.size")
    with pytest.raises(V4DError, match=r"training.crop.size is 77, and i3ds_tiny takes 224x224 pixels only"):
        check_crop(model, 77, "training.crop.size")
    monkeypatch.setitem(NORMALISATIONS, "imagenet", InputSpec(frames=16))
    with pytest.raises(V4DError, match="frames 2: i3ds_tiny takes units of 16 frames only"):
        create_model("i3ds_tiny", num_classes=5, units=1, frames=2)


def test_the_network_is_found_inside_its_wrappers():
    model = create_model("i3ds_tiny", num_classes=5, units=1, frames=2)
    compiled = torch.compile(model)
    assert unwrapped(torch.nn.DataParallel(compiled)) is unwrapped(compiled) is unwrapped(model) is model
