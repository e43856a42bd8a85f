"""Parameters and multiply-adds as the paper prints them."""

import pytest

from v4d.models import create_model, gmac, parameter_count, stage_costs

PRINTED = [
    ("i3ds_resnet18", 1, 16, 55.1, 32.3),
    ("i3ds_resnet18", 4, 4, 55.1, 32.3),  # TSN: the same network
    ("v4d_resnet18", 4, 4, 58.8, 33.1),
    ("i3ds_resnet18pp", 1, 16, None, 34.1),
]


@pytest.mark.parametrize(("arch", "units", "frames", "printed_gmac", "printed_millions"), PRINTED)
def test_the_paper_s_table(arch, units, frames, printed_gmac, printed_millions):
    model = create_model(arch, num_classes=1000, units=units, frames=frames)
    assert round(parameter_count(model) / 1e6, 1) == printed_millions
    if printed_gmac is not None:
        assert round(gmac(model, units, frames, 224, 224), 1) == printed_gmac


def test_the_released_resnet50():
    model = create_model("v4d_resnet50", num_classes=400, units=4, frames=8)
    assert parameter_count(model) == 37_172_688
    assert round(gmac(model, 4, 8, 224, 224), 1) == 285.3
    blocks = [stage.gmac for stage in stage_costs(model, 4, 8, 224, 224) if stage.name.endswith("4D")]
    assert [round(cost, 1) for cost in blocks] == [59.2, 59.2]


def test_stages_add_up_and_have_the_paper_s_sizes():
    model = create_model("i3ds_resnet50", num_classes=400, units=1, frames=4)
    stages = stage_costs(model, 1, 4, 224, 224)
    assert sum(stage.parameters for stage in stages) == parameter_count(model)
    assert sum(stage.gmac for stage in stages) == pytest.approx(gmac(model, 1, 4, 224, 224))
    sizes = {stage.name: stage.shape for stage in stages}
    assert sizes["conv1"] == (64, 4, 56, 56)  # behind the pooling
    assert [sizes[f"res{n}"][2] for n in (2, 3, 4, 5)] == [56, 28, 14, 7]
    assert [sizes[f"res{n}"][0] for n in (2, 3, 4, 5)] == [256, 512, 1024, 2048]


def test_describe_prints_the_table(capsys):
    from v4d.cli import main

    assert main(["describe", "v4d_resnet18", "--units", "4", "--frames", "4", "--classes", "1000"]) == 0
    printed = capsys.readouterr().out
    assert "58.8" in printed and "33.1" in printed and "res3" in printed
