"""Exported programs give the network's logits, for any number of videos; a GPU is checked at its start."""

import json

import pytest
import torch

from tests.support.full_disk import disk_of
from tests.support.project import assert_one_line_error, run
from v4d.errors import V4DError
from v4d.models import create_model
from v4d.models.checkpoint import load_model, save_model
from v4d.models.export import export


def saved(path):
    torch.manual_seed(0)
    model = create_model("v4d_tiny", num_classes=4, units=2, frames=3).eval()
    torch.nn.init.normal_(model.fc.weight)
    save_model(
        path, model, architecture=model.spec, classes=list("abcd"), info={"stage": {"frame_stride": 3}}
    )
    return model


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The network as torch exports it, which takes seconds; for tests of what comes after."""
    model = saved(tmp_path_factory.mktemp("program") / "model.pt")
    x = torch.randn(2, 2, 3, 3, 32, 32)
    return torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("videos")},))


@pytest.mark.slow
def test_export_reload_compare(tmp_path):
    model = saved(tmp_path / "model.pt")
    run("export", "model.pt", "--out", "model.pt2", "--size", 32, cwd=tmp_path)
    extra = {"v4d.json": ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=extra).module()
    assert json.loads(extra["v4d.json"])["classes"] == list("abcd")
    for videos in (1, 2, 5):
        x = torch.randn(videos, 2, 3, 3, 32, 32)
        with torch.inference_mode():
            assert torch.allclose(program(x), model(x), atol=1e-5)


def test_another_suffix_is_one_line(tmp_path):
    saved(tmp_path / "model.pt")
    done = run("export", "model.pt", "--out", "model.zip", cwd=tmp_path, check=False)
    assert_one_line_error(done, "model.zip", ".pt2")


def test_a_program_that_computes_something_else_is_not_left_behind(tmp_path, monkeypatch, program):
    model = saved(tmp_path / "model.pt")
    torch.nn.init.normal_(model.fc.weight)  # it is another network now
    monkeypatch.setattr(torch.export, "export", lambda *_, **__: program)
    with pytest.raises(V4DError, match="differs"):
        export(model, tmp_path / "wrong.pt2", height=32, width=32, description={})
    assert not (tmp_path / "wrong.pt2").exists()


def test_a_full_disk_is_one_line(tmp_path, monkeypatch, program):
    model = saved(tmp_path / "model.pt")
    monkeypatch.setattr(torch.export, "export", lambda *_, **__: program)
    with (
        disk_of(100_000),
        pytest.raises(V4DError, match=r"cannot write .*full\.pt2: File too large"),
    ):
        export(model, tmp_path / "full.pt2", height=32, width=32, description={})
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]


def test_a_saved_model_comes_back_whole(tmp_path):
    model = saved(tmp_path / "model.pt")
    back = load_model(tmp_path / "model.pt")
    assert back.classes == list("abcd") and back.architecture == model.spec
    assert back.info == {"stage": {"frame_stride": 3}} and not back.model.training
    x = torch.randn(1, 2, 3, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(back.model(x), model(x))
