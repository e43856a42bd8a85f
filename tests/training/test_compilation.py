"""When a network is compiled, and what a training says where that does not work."""

from typing import Any

import pytest
import torch

from tests.support import training
from tests.support.processes import in_ranks
from tests.support.training import ALONE
from v4d import config as configs
from v4d.config import TrainingConfig, compiles
from v4d.data.batch import Batch
from v4d.distributed.group import DistributedContext
from v4d.training import compilation
from v4d.training.compilation import will_compile
from v4d.training.step import TrainStep

COMPILE = torch.compile
GPU = DistributedContext(0, 1, torch.device("cuda"))


@pytest.mark.parametrize(
    ("wanted", "device", "steps", "expected"),
    [
        ("auto", "cuda", 5000, True),
        ("auto", "cuda", 4999, False),  # a minute of compiling does not come back
        ("auto", "cpu", 10**6, False),
        (True, "cpu", 1, True),
        (False, "cuda", 10**6, False),
    ],
)
def test_when_a_network_is_compiled(wanted, device, steps, expected):
    assert compiles(wanted, device, steps) is expected


def test_where_compiling_does_not_work_the_training_goes_on_without(monkeypatch, capsys):
    def fails(*args, **options):
        raise RuntimeError("Failed to find C compiler.\nPlease specify CC.")

    monkeypatch.setattr(compilation, "any_rank", lambda ranks, value: value)
    monkeypatch.setattr(torch, "zeros", lambda *args, device: torch.ones(8))  # in place of a GPU's
    monkeypatch.setattr(torch, "compile", fails)
    stage = training.stage(epochs=1000)
    assert not will_compile(stage, videos=800, context=GPU)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "training.compile: auto: goes on without torch.compile (Failed to find C compiler." in said
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    assert will_compile(stage, videos=800, context=GPU)
    assert not will_compile(stage, videos=8, context=GPU)
    assert capsys.readouterr().err == ""


def test_an_older_training_knows_no_auto():
    """Rule params and settings keep what they said, so that a new default makes nothing anew."""
    told = configs.settings(configs.plain(training.stage().training), TrainingConfig)
    assert told["compile"] is False
    asked = configs.settings(configs.plain(training.stage(compile=True).training), TrainingConfig)
    assert asked["compile"] is True
    assert "compile" not in configs.settings(asked, TrainingConfig, but=("cost",))


def eagerly(net: torch.nn.Module, **options: Any) -> torch.nn.Module:
    """In place of torch.compile: its graphs, without the minutes that their kernels take on a CPU."""
    return COMPILE(net, backend="aot_eager", **options)


def after_two_steps(
    ranks: DistributedContext, passes: list[Batch], compiled: bool
) -> dict[str, torch.Tensor]:
    """Weights after steps of several passes each: DDP holds its reduction back until the last one."""
    torch.compile = eagerly
    model = training.learner(ALONE).model
    own = TrainStep(model, training.stage(), ranks, 0, compiled=compiled)
    for step in range(2):
        own.step(passes, 0, step, 0.0)
    return own.model.state_dict()


def of_rank(ranks: DistributedContext) -> dict[str, torch.Tensor]:
    whole = training.videos(8)
    start = 4 * ranks.rank
    passes = [training.part(whole, start, start + 2), training.part(whole, start + 2, start + 4)]
    return after_two_steps(ranks, passes, compiled=True)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_compiled_steps_are_the_steps(monkeypatch, ranks):
    monkeypatch.setattr(torch, "compile", eagerly)  # put back afterwards
    whole = training.videos(8)
    right = after_two_steps(ALONE, [whole], compiled=False)
    for found in in_ranks(2, of_rank) if ranks == 2 else [after_two_steps(ALONE, [whole], compiled=True)]:
        assert found.keys() == right.keys()
        assert all(torch.allclose(found[name], value, atol=1e-6) for name, value in right.items())
