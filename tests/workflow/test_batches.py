"""A batch that no process can take is refused before anything is made, a key without effect is noted once."""

from pathlib import Path

import pytest

from tests.support.project import TINY, write_config
from tests.support.workflow import WORKFLOW, checkout, snakemake
from v4d import config as configs
from v4d.errors import V4DError
from v4d.workflow import check_batches


def notes_of(offered: int | None = None, seeds: tuple[int, ...] = (), **training) -> list[str]:
    document = configs.merge(TINY, {"training": training, "seeds": list(seeds)})
    return check_batches(configs.build(configs.resolve(document)), offered)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({"batch_size": 9, "gpus": 2}, ["batch_size 9", "2 processes x 1 accumulated"]),
        ({"batch_size": 9, "gpus": 4}, ["2 processes x 1", "; on GPUs", "4 processes x 1"]),
        ({"batch_size": 4, "accumulate": 4, "mixup": 0.2}, ["2 processes x 4", "on GPUs, training.mixup"]),
        ({"batch_size": 2, "gpus": 2, "mixup": 0.2}, ["training.mixup", "batch_size 2 over 2 processes"]),
    ],
)
def test_what_neither_a_cpu_nor_gpus_can_train_is_refused(training, words):
    with pytest.raises(V4DError) as error:
        notes_of(seeds=(0, 1), **training)
    line = str(error.value)
    assert line.startswith("config: models.v4d: training.") and "\n" not in line
    assert all(word in line for word in words)


@pytest.mark.parametrize(
    ("training", "offered", "words"),
    [
        ({"batch_size": 9}, None, ["on a CPU refused", "batch_size 9", "2 processes"]),
        ({"batch_size": 9}, 1, []),
        ({"batch_size": 8, "gpus": 3}, None, ["on GPUs refused", "3 processes"]),
        ({"batch_size": 8, "gpus": 3}, 3, ["on GPUs refused", "3 processes"]),
        ({"batch_size": 8, "gpus": 3}, 2, []),  # it is granted no more than are offered
        ({"batch_size": 2, "mixup": 0.2}, None, ["on a CPU refused", "training.mixup"]),
        ({"batch_size": 8, "gpus": 2, "mixup": 0.2, "accumulate": 2}, None, []),
        ({"batch_size": 2, "gpus": 2}, None, []),
    ],
)
def test_what_only_one_of_them_can_train_is_noted(training, offered, words):
    lines = notes_of(offered, (0, 1), **training)
    assert len(lines) == bool(words)
    assert all(word in line for word in words for line in lines)


def test_what_is_finished_or_has_begun_is_left_alone():
    folder = Path("results/tiny/v4d/main")
    alone = {"batch_size": 1, "processes": 1, "mixup": 0.2}
    (folder / "checkpoints").mkdir(parents=True)
    assert notes_of(**alone) == []  # a version before this rule began it: it goes on
    with pytest.raises(V4DError, match="does not divide"):
        notes_of(batch_size=9, gpus=2)
    (folder / "final.pt").touch()
    assert notes_of(batch_size=9, gpus=2) == []
    with pytest.raises(V4DError, match="does not divide"):  # the second seed's is still to come
        notes_of(seeds=(0, 1), batch_size=9, gpus=2)


@pytest.mark.slow
def test_snakemake_says_it_before_anything_is_made(tmp_path):
    folder = checkout(tmp_path)
    changes = {"testing": {"units": 1}, "training": {"batch_size": 8, "gpus": 3}}
    write_config(folder, configs.merge(WORKFLOW, changes), "flow.yaml")
    printed = snakemake(folder, "--until", "annotations")
    noted = [line for line in printed.splitlines() if line.startswith("note: config: ")]
    assert len(noted) == 2 and "testing.units 1" in noted[0] and "on GPUs refused" in noted[1]
    assert (folder / "data/flow").exists()


@pytest.mark.slow
def test_snakemake_refuses_before_anything_is_made(tmp_path):
    folder = checkout(tmp_path)
    changes = {"training": {"batch_size": 9, "processes": 2, "gpus": 2}}
    write_config(folder, configs.merge(WORKFLOW, changes), "flow.yaml")
    printed = snakemake(folder, check=False)
    assert "error: config: models.v4d: training.batch_size 9 does not divide" in printed
    assert not (folder / "data").exists() and not (folder / "results").exists()
