"""Schedules against values computed by hand; parameter groups by name."""

import math

import pytest
import torch
from torch import nn

from v4d.config import OptimizerConfig, ScheduleConfig
from v4d.models import create_model, freeze
from v4d.models.freezing import frozen_names
from v4d.training.optim import WeightAverage, build_optimizer, lr_factor, parameter_groups, set_lr


def schedule(name: str, **changes) -> ScheduleConfig:
    values = {
        "per": "step",
        "milestones": (3, 6),
        "gamma": 0.1,
        "warmup_epochs": 0.0,
        "warmup_factor": 0.1,
        "final_factor": 0.0,
        "rise": 0.3,
    }
    return ScheduleConfig(name=name, **(values | changes))


def optimizer(**changes) -> OptimizerConfig:
    values = {
        "name": "sgd",
        "lr": 0.1,
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 5e-4,
        "decay_norm_and_bias": False,
        "bias_lr_factor": 2.0,
        "reference_batch": None,
    }
    return OptimizerConfig(**(values | changes))


def test_a_network_s_own_rates_are_further_groups():
    """`start4d.norm_lr_factor`; without it the groups are three, as in every checkpoint of before."""
    shape = {"num_classes": 3, "units": 2, "frames": 2, "preset": "paper"}
    usual = parameter_groups(create_model("v4d_tiny", **shape), optimizer())
    assert [group["name"] for group in usual] == ["weights", "biases", "norms"]
    model = create_model("v4d_tiny", **shape, start4d={"norm_lr_factor": 10})
    *_, norms, own = parameter_groups(model, optimizer())
    assert (own["factor"], own["weight_decay"]) == (10, 0.0)
    assert {id(p) for p in own["params"]} == {id(block.bn.weight) for block in model.blocks4d().values()}
    assert len(norms["params"]) == len(usual[2]["params"]) - 2


HALF = math.sqrt(0.5)


@pytest.mark.parametrize(
    ("settings", "epochs", "table"),
    [
        (schedule("step"), 10, {0: 1, 2.999: 1, 3: 0.1, 5.9: 0.1, 6: 0.01, 9.9: 0.01}),
        (schedule("constant"), 10, {0: 1, 9.9: 1}),
        (schedule("cosine"), 8, {0: 1, 2: (1 + HALF) / 2, 4: 0.5, 6: (1 - HALF) / 2, 8: 0}),
        (schedule("cosine", final_factor=0.2), 8, {0: 1, 4: 0.6, 8: 0.2}),
        (schedule("cosine", warmup_epochs=2.0), 10, {0: 0.1, 1: 0.55, 2: 1, 6: 0.5, 10: 0}),
        (schedule("step", warmup_epochs=2.0, warmup_factor=0.5), 10, {0: 0.5, 1: 0.75, 2: 1, 3: 0.1}),
        (schedule("cosine", per="epoch", warmup_epochs=1.0), 5, {0.99: 0.1, 1: 1, 3: 0.5, 3.9: 0.5}),
        (schedule("onecycle"), 10, {0: 0.04, 1.5: 0.52, 3: 1, 6.5: 0.5, 10: 0}),
        (schedule("onecycle", final_factor=0.1, rise=0.5), 8, {0: 0.1, 2: 0.55, 4: 1, 6: 0.55, 8: 0.1}),
    ],
)
def test_schedules_by_hand(settings, epochs, table):
    for epoch, expected in table.items():
        assert lr_factor(settings, epoch, epochs) == pytest.approx(expected, abs=1e-12), epoch


def test_groups_hold_every_parameter_once_and_by_kind():
    model = create_model("v4d_tiny", num_classes=3, units=2, frames=2, preset="paper")
    groups = {group["name"]: group for group in parameter_groups(model, optimizer())}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    by_group = {name: {names[id(p)] for p in group["params"]} for name, group in groups.items()}
    assert by_group["biases"] == {"fc.bias"}
    bn_modules = {name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert by_group["norms"] == {f"{name}.{kind}" for name in bn_modules for kind in ("weight", "bias")}
    rest = set(names.values()) - by_group["biases"] - by_group["norms"]
    assert by_group["weights"] == rest and "fc.weight" in rest and "stem.conv.weight" in rest
    assert [groups[n]["weight_decay"] for n in ("weights", "biases", "norms")] == [5e-4, 0.0, 0.0]
    assert [groups[n]["factor"] for n in ("weights", "biases", "norms")] == [1.0, 2.0, 1.0]


def test_decay_of_everything_is_an_option():
    model = create_model("i3ds_tiny", num_classes=3, units=1, frames=2)
    groups = parameter_groups(model, optimizer(decay_norm_and_bias=True))
    assert {group["weight_decay"] for group in groups} == {5e-4}


def test_what_is_frozen_is_in_no_group():
    model = create_model("v4d_tiny", num_classes=3, units=2, frames=2)
    freeze(model, "backbone")
    held = {id(p) for group in parameter_groups(model, optimizer()) for p in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in held}
    assert names and all("blocks4d" in name or name.startswith("fc.") for name in names)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_the_rate_reaches_the_groups(name):
    model = create_model("i3ds_tiny", num_classes=3, units=1, frames=2)
    built = build_optimizer(model, optimizer(name=name))
    set_lr(built, 0.3)
    assert {group["name"]: group["lr"] for group in built.param_groups} == {
        "weights": 0.3,
        "biases": 0.6,
        "norms": 0.3,
    }


def test_average_of_weights_by_hand():
    """The first weights count nothing: (0.1 * 3 + 0.09) / 0.19. A training of before goes on without that."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.0)
    for steps, expected in ((0, (1.0, 0.39 / 0.19)), (None, (0.1, 0.39))):
        average = WeightAverage(model, decay=0.9)
        average.state["weight"].zero_()
        average.steps = steps
        for value, found in zip((1.0, 3.0), expected, strict=True):
            nn.init.constant_(model.weight, value)
            average.update(model)
            assert average.state["weight"].item() == pytest.approx(found)
        assert torch.equal(model.weight.detach(), torch.full((1, 1), 3.0))


def test_the_average_of_what_is_frozen_is_itself():
    """Also where an older version had written other statistics into it."""
    model = create_model("v4d_tiny", num_classes=3, units=2, frames=2)
    freeze(model, "backbone")
    names = frozen_names(model)
    assert {"stem.bn.running_mean", "res2.blocks.0.conv1.weight"} <= names
    assert not any("blocks4d" in name or name.startswith("fc.") for name in names)
    average = WeightAverage(model, 0.9, names)
    average.state["stem.bn.running_mean"].fill_(7.0)
    average.update(model)
    assert torch.equal(average.state["stem.bn.running_mean"], model.stem.bn.running_mean)
