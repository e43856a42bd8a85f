"""A device whose convolutions are wrong is found out, named, and worked around."""

import pytest
import torch
import torch.nn.functional as F

from v4d.models import parity
from v4d.models.convolution import Trust
from v4d.models.parity import FORMS_2D, FORMS_3D, check_device, wrong_forms


def forgets_the_last_channel(x, weight, *rest):
    return F.conv3d(x, torch.cat([weight[:, :-1], torch.zeros_like(weight[:, -1:])], 1), *rest)


def gives_nan(x, weight, *rest):
    return F.conv3d(x, weight, *rest) * float("nan")


@pytest.mark.parametrize("conv", [forgets_the_last_channel, gives_nan])
def test_wrong_kernels_are_found_in_every_form_and_precision(conv):
    wrong = wrong_forms(FORMS_3D, "cpu", conv3d=conv)
    assert len(wrong) == 2 * len(FORMS_3D)
    assert any("3x3x1x1" in line and "bf16" in line for line in wrong)


def test_float32_on_this_cpu_is_right():
    assert not [line for line in wrong_forms(FORMS_2D + FORMS_3D, "cpu") if "TF32" in line]


def test_a_wrong_device_warns_once_and_3d_convolutions_are_avoided(monkeypatch):
    monkeypatch.setattr(Trust, "conv3d", True)
    monkeypatch.setattr(parity, "_checked", set())
    monkeypatch.setattr(
        parity, "wrong_forms", lambda forms, device: ["3x3x3 in bf16 is off"] if forms is FORMS_3D else []
    )
    with pytest.warns(UserWarning, match=r"3x3x3 in bf16 is off.*slower"):
        check_device(torch.device("cpu"))
    assert not Trust.conv3d
    check_device(torch.device("cpu"))  # said once


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_this_gpu():
    assert wrong_forms(FORMS_2D, "cuda") == []
