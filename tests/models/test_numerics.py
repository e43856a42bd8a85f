"""A device whose convolutions are wrong is found out, named, and worked around."""

import warnings
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from v4d.models import Conv4d, base, create_model
from v4d.models import numerics as parity
from v4d.models.convolution import ConvBackend
from v4d.models.numerics import CASES_2D, CASES_3D, check_device, relative_error, wrong_cases
from v4d.models.registry import RESNETS


def forgets_the_last_channel(x, weight, *rest):
    return F.conv3d(x, torch.cat([weight[:, :-1], torch.zeros_like(weight[:, -1:])], 1), *rest)


def gives_nan(x, weight, *rest):
    return F.conv3d(x, weight, *rest) * float("nan")


@pytest.mark.parametrize("conv", [forgets_the_last_channel, gives_nan])
def test_wrong_kernels_are_found_in_every_form_and_precision(conv):
    wrong = wrong_cases(CASES_3D, "cpu", conv3d=conv)
    assert len(wrong) == 2 * len(CASES_3D)
    assert any("3x3x1x1" in line and "bf16" in line for line in wrong)


def test_a_kernel_that_cannot_run_is_wrong():
    def has_no_engine(*_):
        raise RuntimeError("GET was unable to find an engine to execute this computation\nmore")

    wrong = wrong_cases(CASES_3D, "cpu", conv3d=has_no_engine)
    assert len(wrong) == 2 * len(CASES_3D)
    assert all("fails: GET was unable" in line and "\n" not in line for line in wrong)


def test_a_full_gpu_says_nothing_of_its_kernels():
    def finds_no_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        wrong_cases(CASES_3D, "cpu", conv3d=finds_no_memory)


@pytest.mark.parametrize(
    "surroundings",
    [
        torch.inference_mode,
        torch.no_grad,
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: torch.device("meta"),
    ],
)
def test_whatever_surrounds_the_check_it_measures_the_same(surroundings):
    """`with torch.inference_mode(): model.cuda()` is how a network comes to a GPU, too."""
    plain = [relative_error(form, "cpu", torch.float32, F.conv2d) for form in CASES_2D]
    with surroundings():
        assert [relative_error(form, "cpu", torch.float32, F.conv2d) for form in CASES_2D] == plain


@pytest.mark.parametrize("value", ["ieee", "tf32"])
def test_the_setting_of_tf32_is_put_back(value):
    setting, seen = torch.backends.cudnn.conv, []
    before = setting.fp32_precision

    def conv(*given):
        seen.append(setting.fp32_precision)
        return F.conv2d(*given)

    setting.fp32_precision = value
    try:
        relative_error(CASES_2D[0], "cpu", torch.float32, conv)
        assert seen == ["tf32"] and setting.fp32_precision == value
    finally:
        setting.fp32_precision = before


def test_float32_on_this_cpu_is_right():
    assert not [line for line in wrong_cases(CASES_2D + CASES_3D, "cpu") if "TF32" in line]


def test_a_wrong_device_warns_once_and_3d_convolutions_are_avoided(monkeypatch):
    monkeypatch.setattr(ConvBackend, "conv3d", True)
    monkeypatch.setattr(parity, "_checked", set())
    monkeypatch.setattr(
        parity, "wrong_cases", lambda forms, device: ["3x3x3 in bf16 is off"] if forms is CASES_3D else []
    )
    with pytest.warns(UserWarning, match=r"3x3x3 in bf16 is off.*slower"):
        check_device(torch.device("cpu"))
    assert not ConvBackend.conv3d
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_device(torch.device("cpu"))  # said once


def test_wrong_2d_convolutions_can_only_be_reported(monkeypatch):
    monkeypatch.setattr(ConvBackend, "conv3d", True)
    monkeypatch.setattr(parity, "_checked", set())
    monkeypatch.setattr(
        parity, "wrong_cases", lambda forms, device: ["1x1x1 in TF32 is off"] if forms is CASES_2D else []
    )
    with pytest.warns(UserWarning, match=r"1x1x1 in TF32 is off.*not to be trusted"):
        check_device(torch.device("cpu"))
    assert ConvBackend.conv3d


class Recorder(TorchDispatchMode):
    """Counts what a computation asks of the device."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()
        self.ranks = set()  # of what goes into convolutions

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        self.counts[name] += 1
        if name == "convolution":
            self.ranks.add(args[0].dim())
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("arch", [arch for arch in RESNETS if "50" in arch or "18" in arch])
@pytest.mark.parametrize("trust", [True, False])
def test_what_a_gpu_is_asked_to_do(arch, trust, monkeypatch):
    """On a GPU without data: one launch a layer, and no copy but those of the input and the stem's kernel.

    The input is folded, which the loader's memory needs not, and its blocks of 2x2 become channels.

    Where its 3D convolutions are wrong, none of these, and only 2D ones in their place.
    """
    monkeypatch.setattr(ConvBackend, "conv3d", trust)
    with FakeTensorMode(), torch.no_grad():
        with torch.device("cuda:0"):
            model = create_model(arch, num_classes=4, units=4, frames=4).eval()
            x_NUCTHW = torch.randn(2, 4, 3, 4, 64, 64)
        layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Conv3d | Conv4d)]
        with Recorder() as seen:
            assert model(x_NUCTHW).shape == (2, 4)
    if trust:
        assert seen.counts["convolution"] == len(layers)
        assert seen.counts["clone"] == 3 and seen.counts["copy_"] == 0
        assert seen.ranks == ({4} if arch == "i3ds_resnet50" else {4, 5})
    else:
        assert seen.ranks == {4}


def test_a_network_that_comes_to_a_gpu_has_it_checked(monkeypatch):
    model = create_model("v4d_tiny", num_classes=4, units=2, frames=2)
    devices = []
    monkeypatch.setattr(base, "check_device", devices.append)
    model.double()
    assert devices == []  # it is on a CPU
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    model.float()
    assert devices == [model.fc.weight.device]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_this_gpu():
    assert wrong_cases(CASES_2D, "cuda") == []
