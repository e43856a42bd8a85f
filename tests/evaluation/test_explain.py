"""ActivationMaps that add up to the network's answer, and find what it goes by."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from matplotlib.image import imread

from tests.support import made_by_hand as made
from v4d.cli import main
from v4d.data.batch import normalise
from v4d.evaluation.algorithm1 import unit_sections
from v4d.evaluation.explain import activation_maps, covering_combinations, unit_logits
from v4d.evaluation.predict import Predictor
from v4d.models import create_model


@pytest.mark.parametrize("preset", ["paper", "released"])
@pytest.mark.parametrize("arch", ["v4d_tiny", "i3ds_tiny"])
def test_contributions_and_units_add_up_to_the_logit(arch, preset):
    torch.manual_seed(0)
    model = create_model(arch, num_classes=5, units=3, frames=2, preset=preset).eval()
    torch.nn.init.normal_(model.fc.weight)
    torch.nn.init.normal_(model.fc.bias)
    x = torch.randn(1, 3, 3, 2, 64, 48)
    logits = model(x)[0].detach()
    for index in range(5):
        maps = activation_maps(model, x, index)
        assert maps.contributions.shape[:2] == (3, 2)
        assert float(maps.contributions.sum()) + maps.bias == pytest.approx(float(logits[index]), abs=1e-4)
        assert maps.logit == pytest.approx(float(logits[index]), abs=1e-5)
    by_unit = unit_logits(model, x)
    torch.testing.assert_close(by_unit.mean(0), logits, atol=1e-4, rtol=1e-4)


def test_a_patch_of_colour_in_one_unit_and_frame_is_found(tmp_path):
    model = made.colour_model(tmp_path / "colour.pt", units=4, frames=3)
    frames = torch.full((1, 4, 3, 128, 128, 3), 60, dtype=torch.uint8)
    frames[0, 2, 1, 24:40, 88:104] = torch.tensor([20, 230, 20], dtype=torch.uint8)
    maps = activation_maps(model, normalise(frames, model.input), made.CLASSES.index("green"))
    assert maps.contributions.shape == (4, 3, 4, 4)  # a place is 32 pixels
    share = maps.contributions / maps.contributions.sum()
    assert float(share[2, 1, 1, 3]) > 0.99
    assert maps.units.argmax() == 2


@pytest.mark.parametrize(("units", "trained"), [(10, 4), (8, 4), (7, 3), (4, 4), (5, 1)])
def test_covering_combinations_hold_every_unit_and_are_ones_of_algorithm_1(units, trained):
    combinations = covering_combinations(units, trained)
    sections = unit_sections(units, trained)
    assert {unit for chosen in combinations for unit in chosen} == set(range(units))
    assert len(combinations) == max(map(len, sections))
    assert all(
        unit in section for chosen in combinations for unit, section in zip(chosen, sections, strict=True)
    )


def test_more_units_than_the_networks_own_have_each_what_it_says_by_itself():
    """Where no unit knows of another, whatever they are shown with."""
    torch.manual_seed(0)
    model = create_model("i3ds_tiny", num_classes=5, units=2, frames=2).eval()
    torch.nn.init.normal_(model.fc.weight)
    x = torch.randn(1, 5, 3, 2, 32, 32)
    alone = torch.cat([model(x[:, [unit, unit]]) for unit in range(5)]).detach()
    torch.testing.assert_close(unit_logits(model, x), alone, atol=1e-4, rtol=1e-4)


def test_the_command_writes_a_sheet_and_a_video(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = made.colour_model()
    made.save(model, Path("colour.pt"), clips={"size": "48x32"}, testing={"units": 5, "crop_size": 32})
    with av.open("red.mp4", "w") as container:
        stream = container.add_stream("libx264", rate=20)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for picture in made.plain(made.COLOURS["red"], 40):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())
    common = ["explain", "red.mp4", "--checkpoint", "colour.pt"]
    assert main([*common, "--out", "sheet.png"]) == 0
    assert capsys.readouterr().out.startswith("red: 100.0 %")
    assert imread("sheet.png").std() > 0.05
    assert main([*common, "--out", "maps.mp4", "--class", "green"]) == 0
    with av.open("maps.mp4") as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 2 * 3  # the network's own units and frames
    assert np.ptp(frames[0].astype(int), axis=(0, 1)).max() > 50

    seen = Predictor("colour.pt").explain(Path("red.mp4"))
    assert seen.rate == 10  # every second frame of 20 a second
    np.testing.assert_allclose(np.diff(seen.seconds, axis=1), 0.1)
    assert seen.seconds[0, 0] == 0 and 0.5 < seen.seconds[1, 0] < 2

    for words, message in {
        ("--out", "maps.txt"): "maps.txt: write a contact sheet (.png",
        ("--out", "x.png", "--class", "pink"): "--class 'pink' is none of the model's 4 classes",
    }.items():
        assert main([*common, *words]) == 1
        assert message in capsys.readouterr().err
    assert not Path("x.png").exists()
