"""A model as a file: damaged, foreign, impossible to write; always one line that names it."""

import re

import pytest
import torch

from tests.support.full_disk import disk_of
from v4d.checkpoints import load_any
from v4d.errors import V4DError
from v4d.models import create_model
from v4d.models.checkpoint import load_model, read_weights, save_model, write_weights


@pytest.fixture
def document(tmp_path):
    model = create_model("v4d_tiny", num_classes=4, units=2, frames=3)
    save_model(tmp_path / "model.pt", model, architecture=model.spec, classes=list("abcd"), info={})
    return torch.load(tmp_path / "model.pt", weights_only=True)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda d: d.pop("architecture"), ["no architecture", "import-released"]),
        (lambda d: d.pop("model"), ["no finished v4d model"]),
        (lambda d: d.pop("classes"), ["classes missing"]),
        (lambda d: d.pop("info"), ["info missing"]),
        (lambda d: d.update(format=9), ["format 9", "reads 1"]),
        (lambda d: d.update(model=[1]), ["model missing or of another kind"]),
        (lambda d: d.update(classes=["a"]), ["1 classes for 4 outputs"]),
        (lambda d: d["architecture"].update(colour=1), ["no network of this version", "colour"]),
        (lambda d: d["architecture"].pop("units"), ["no network of this version", "units"]),
        (lambda d: d["architecture"].update(blocks=[1]), ["no network of this version"]),
        (lambda d: d["architecture"].update(dropout=3.0), ["dropout", "3.0"]),
        (
            lambda d: (d["model"].pop("fc.bias"), d["model"].update(extra=torch.ones(1))),
            ["v4d_tiny", "missing fc.bias, unexpected extra"],
        ),
        (lambda d: d["model"].update({"fc.bias": torch.ones(7)}), ["fc.bias", "[7]"]),
    ],
)
def test_a_file_that_is_no_model_of_ours(document, tmp_path, change, parts):
    change(document)
    torch.save(document, tmp_path / "changed.pt")
    with pytest.raises(V4DError) as caught:
        load_model(tmp_path / "changed.pt")
    assert all(part in str(caught.value) for part in ["changed.pt", *parts]), caught.value
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_a_training_gives_its_averaged_weights(document, tmp_path):
    average = {**document["model"], "fc.bias": torch.full((4,), 7.0)}
    identity = {"architecture": document["architecture"], "classes": document["classes"]}
    state = {"format": 1, "identity": identity, "model": document["model"], "info": {}}
    for content, bias in ((state, 0.0), (state | {"average": average}, 7.0)):
        write_weights(tmp_path / "last.pt", content)
        assert (load_model(tmp_path / "last.pt").model.fc.bias == bias).all()
    write_weights(tmp_path / "last.pt", {"format": 1, "identity": {}, "model": {}})
    with pytest.raises(V4DError, match=r"last\.pt"):
        load_model(tmp_path / "last.pt")


def test_a_damaged_file_is_not_loaded(document, tmp_path):
    """Bytes turned over on a disk, or holes of a download, would otherwise load without a word."""
    path = tmp_path / "model.pt"
    whole = path.read_bytes()
    middle = len(whole) // 2
    for content, part in (
        (whole[:middle] + bytes(512) + whole[middle + 512 :], "checksum"),
        (whole[:middle], "cut off"),
        (b"", "EOFError"),
        (b"PK\x03\x04", "cut off"),
    ):
        path.write_bytes(content)
        with pytest.raises(V4DError, match=rf"model\.pt.*{part}"):
            load_model(path)
    path.write_bytes(whole)
    load_model(path)


def test_a_full_disk_is_one_line_and_leaves_the_old_file(document, tmp_path):
    path = tmp_path / "model.pt"
    before = path.read_bytes()
    with disk_of(100_000), pytest.raises(V4DError, match=r"cannot write .*model\.pt: File too large"):
        write_weights(path, document)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.parametrize("out", [".", "model.pt/inside.pt"])
def test_a_place_that_no_file_can_have(document, tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(V4DError, match="cannot write"):
        write_weights(out, document)


def test_files_of_old_pytorch_have_no_checksums_and_load(document, tmp_path):
    torch.save(document, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert read_weights(tmp_path / "old.pt").keys() == document.keys()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("fc.bias", torch.nan, "fc.bias is not finite: the training diverged"),
        ("stem.conv.weight", torch.inf, "stem.conv.weight is not finite"),
        ("res4.blocks4d.1.conv.weight", -torch.inf, "res4.blocks4d.1.conv.weight is not finite"),
        ("stem.bn.running_mean", torch.nan, "stem.bn.running_mean is not finite"),
        ("stem.bn.running_var", -1e-6, "stem.bn.running_var is negative"),
    ],
)
def test_weights_that_give_no_scores_are_neither_taken_nor_written(document, tmp_path, name, value, words):
    """One value among thousands; the file is whole, and its checksums are right."""
    tensor = document["model"][name]
    tensor[(-1,) * tensor.dim()] = value
    write_weights(tmp_path / "changed.pt", document)
    for load in (load_model, load_any):
        with pytest.raises(V4DError, match=re.escape(f"{tmp_path / 'changed.pt'}: {words}")):
            load(tmp_path / "changed.pt")
    model = create_model(**document["architecture"])
    model.load_state_dict(document["model"])
    with pytest.raises(V4DError, match=re.escape(words)):
        save_model(tmp_path / "new.pt", model, architecture=model.spec, classes=list("abcd"), info={})
    assert not (tmp_path / "new.pt").exists()


def test_a_variance_of_zero_is_one(document, tmp_path):
    document["model"]["stem.bn.running_var"].zero_()
    write_weights(tmp_path / "zero.pt", document)
    assert load_model(tmp_path / "zero.pt").model.stem.bn.running_var.sum() == 0
