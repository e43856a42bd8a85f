"""The folder of checkpoints: one writer, whole files, nothing lost."""

import time
from pathlib import Path

import pytest
import torch

from tests.support.processes import start, wait_for
from v4d.errors import V4DError
from v4d.training.checkpoint import CheckpointManager, check_identity


def hold(folder: Path) -> None:
    with CheckpointManager(folder, 2).locked():
        (folder / "held").touch()
        time.sleep(60)


def state(epoch: int) -> dict:
    return {"epoch": epoch, "model": {"w": torch.full((3,), float(epoch))}}


def test_the_last_ones_and_the_best_are_kept(tmp_path):
    folder = CheckpointManager(tmp_path, keep=2)
    for epoch in range(1, 6):
        folder.save(state(epoch), end_of_epoch=True, best=epoch == 2)
    assert sorted(p.name for p in tmp_path.glob("*.pt")) == [
        "best.pt",
        "epoch_0004.pt",
        "epoch_0005.pt",
        "last.pt",
    ]
    assert folder.load()["epoch"] == 5
    assert torch.load(tmp_path / "best.pt", weights_only=True)["epoch"] == 2


def test_a_moment_inside_an_epoch_becomes_the_last_only(tmp_path):
    folder = CheckpointManager(tmp_path, keep=2)
    folder.save(state(1), end_of_epoch=True, best=True)
    folder.save(state(7), end_of_epoch=False, best=False)
    assert folder.load()["epoch"] == 7
    assert torch.load(tmp_path / "epoch_0001.pt", weights_only=True)["epoch"] == 1


def test_a_second_writer_is_refused_by_name_and_a_dead_one_is_not_in_the_way(tmp_path):
    holder = start(hold, tmp_path)
    wait_for((tmp_path / "held").exists)
    folder = CheckpointManager(tmp_path, 2)
    with pytest.raises(V4DError, match=f"process {holder.pid}"), folder.locked():
        pass
    holder.kill()
    holder.join()
    with folder.locked():
        pass


def test_settings_that_changed_move_the_old_states_aside(tmp_path):
    folder = CheckpointManager(tmp_path, 2)
    folder.save(state(3), end_of_epoch=True, best=True)
    with folder.set_aside("abc") as aside:
        pass
    assert folder.load() is None
    assert torch.load(aside / "last.pt", weights_only=True)["epoch"] == 3


def test_what_is_aside_is_not_written_over(tmp_path):
    """Settings that go to and fro; and a process that is killed while it moves."""
    folder = CheckpointManager(tmp_path, 2)
    folder.save(state(9), end_of_epoch=True, best=True)
    with pytest.raises(RuntimeError), folder.set_aside("abc"):
        raise RuntimeError("killed")
    assert folder.load()["epoch"] == 9
    with folder.set_aside("abc"):
        pass
    folder.save(state(1), end_of_epoch=True, best=True)
    with folder.set_aside("abc"):
        pass
    epochs = {p.parent.name: torch.load(p, weights_only=True)["epoch"] for p in tmp_path.glob("*/last.pt")}
    assert epochs == {"superseded-abc": 9, "superseded-abc-2": 1}
    assert (tmp_path / "superseded-abc/best.pt").exists() and not list(tmp_path.glob("*.pt"))


def test_a_folder_that_cannot_be_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(V4DError, match="cannot write in"), CheckpointManager(tmp_path / "file/x", 2).locked():
        pass


def test_a_damaged_file_is_one_line(tmp_path):
    folder = CheckpointManager(tmp_path, 2)
    folder.save(state(3), end_of_epoch=True, best=False)
    whole = (tmp_path / "last.pt").read_bytes()
    (tmp_path / "last.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(V4DError, match=r"last\.pt"):
        folder.load()


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("code has run",))

    torch.save({"epoch": Evil()}, tmp_path / "last.pt")
    with pytest.raises(V4DError, match=r"last\.pt"):
        CheckpointManager(tmp_path, 2).load()


@pytest.mark.parametrize(
    ("now", "words"),
    [
        ({"dataset": "f2"}, ["dataset", "f1", "f2"]),
        ({"classes": ["a", "c"]}, ["classes", "b", "c"]),
        ({"classes": ["b", "a"]}, ["classes", "order"]),
        ({"architecture": {"arch": "v4d_resnet50", "units": 4}}, ["architecture.arch", "tiny", "resnet50"]),
        ({"architecture": {"arch": "v4d_tiny", "units": 5}}, ["architecture.units", "4", "5"]),
    ],
)
def test_another_training_is_refused_with_the_difference(tmp_path, now, words):
    then = {"dataset": "f1", "classes": ["a", "b"], "architecture": {"arch": "v4d_tiny", "units": 4}}
    check_identity(then, then, tmp_path)
    with pytest.raises(V4DError) as error:
        check_identity(then, then | now, tmp_path)
    for word in words:
        assert word in str(error.value)
