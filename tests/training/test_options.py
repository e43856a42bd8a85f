"""What is off by default and is asked for: each does what its name says."""

import os
from pathlib import Path

import lmdb
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.support.processes import in_ranks
from tests.support.project import TINY, assert_one_line_error, run_rank, train, write_config
from tests.support.training import ALONE, learner, part, stage, videos
from v4d import config as configs
from v4d.data.batch import Batch, normalise
from v4d.data.shard_format import frame_key, seal
from v4d.data.shards import ShardReader
from v4d.distributed.group import DistributedContext
from v4d.errors import V4DError
from v4d.models import create_model, freeze
from v4d.models.base import BatchNorm
from v4d.models.checkpoint import load_model
from v4d.models.freezing import frozen_names
from v4d.training.inputs import validation_batches
from v4d.training.metric_logger import epoch_table
from v4d.training.step import TrainStep, partners, seed_step
from v4d.training.trainer import Trainer
from v4d.training.validation import measure_batch_norm, validate
from v4d.utils.files import read_json


def test_mixup_by_hand():
    """Videos and labels are mixed with one share: the loss is that of both labels, weighted."""
    batch, own = videos(4), learner(ALONE, mixup=0.5)
    seed_step(0, 3, 1, 0, 0)
    share = float(torch.distributions.Beta(0.5, 0.5).sample())
    assert 0 < share < 1
    x, other = normalise(batch.frames, own.model.input), torch.tensor([3, 0, 1, 2])
    with torch.no_grad():
        logits = own.model(share * x + (1 - share) * x[other])
    losses = share * F.cross_entropy(logits, batch.class_index, reduction="none")
    losses += (1 - share) * F.cross_entropy(logits, batch.class_index[other], reduction="none")
    loss, *_ = own.step([batch], epoch=3, step=1, part=3.1).tolist()
    assert loss == pytest.approx(losses.sum().item(), rel=1e-5)


def test_mixup_leaves_out_what_was_skipped():
    """Its frames are black, its label nobody should learn: the loss is as if it were not there."""
    batch, settings = videos(4), {"mixup": 0.5}
    expected = learner(ALONE, **settings).step([part(batch, 0, 3)], 0, 0, 0.0)
    batch.weight[3], batch.frames[3] = 0, 0
    for order in ([0, 1, 2, 3], [3, 0, 1, 2], [0, 3, 1, 2]):
        again = Batch(batch.frames[order], batch.class_index[order], batch.video_id, batch.weight[order])
        assert torch.allclose(learner(ALONE, **settings).step([again], 0, 0, 0.0), expected, rtol=1e-5)


@given(st.lists(st.booleans(), min_size=1, max_size=9))
def test_partners_are_the_videos_that_count_each_once(counts):
    found = partners(torch.tensor(counts, dtype=torch.float32)).tolist()
    counted = [n for n, counts_ in enumerate(counts) if counts_]
    assert [found[n] for n in counted] == counted[-1:] + counted[:-1]
    assert all(found[n] == n for n in range(len(counts)) if n not in counted)


def test_mixup_of_one_video_a_pass_is_one_line(tiny):
    write_config(tiny, configs.merge(TINY, {"training": {"mixup": 0.5, "accumulate": 4}}))
    assert_one_line_error(train(tiny, check=False), "training.mixup mixes the videos of a pass", "is one")


def test_label_smoothing_by_hand():
    batch, own = videos(4), learner(ALONE, label_smoothing=0.1)
    with torch.no_grad():
        log_p = own.model(normalise(batch.frames, own.model.input)).log_softmax(1)
    right = log_p.gather(1, batch.class_index[:, None])[:, 0]
    expected = -(0.9 * right + 0.1 * log_p.mean(1)).sum()
    assert own.step([batch], 0, 0, 0.0)[0].item() == pytest.approx(expected.item(), rel=1e-5)


def test_adamw_is_torch_s():
    batch = videos(4)
    own = learner(ALONE, optimizer={"name": "adamw", "lr": 0.01, "weight_decay": 0.1, "bias_lr_factor": 1})
    model = learner(ALONE).model
    plain = torch.optim.AdamW(
        [
            {"params": [p for n, p in model.named_parameters() if decayed(model, n)], "weight_decay": 0.1},
            {
                "params": [p for n, p in model.named_parameters() if not decayed(model, n)],
                "weight_decay": 0.0,
            },
        ],
        lr=0.01,
    )
    for step in range(3):
        own.step([batch], 0, step, 0.0)
        for ours, theirs in zip(own.model.parameters(), model.parameters(), strict=True):
            theirs.grad = ours.grad.clone()
        plain.step()
    for ours, theirs in zip(own.model.parameters(), model.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def decayed(model: nn.Module, name: str) -> bool:
    module = model.get_submodule(name.rpartition(".")[0])
    return not isinstance(module, BatchNorm) and not name.endswith("bias")


def test_synchronised_batch_norm_keeps_all_but_the_layers_kind():
    torch.manual_seed(0)
    model = create_model("v4d_tiny", num_classes=3, units=2, frames=2, preset="paper")
    freeze(model, "batchnorm")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fixed = {name for name, p in model.named_parameters() if not p.requires_grad}
    x = torch.rand(2, 2, 3, 2, 16, 16)
    expected = model.eval()(x)
    model = TrainStep(model.train(), stage(sync_batchnorm=True), ALONE, seed=0).model
    layers = [module for module in model.modules() if isinstance(module, BatchNorm)]
    assert layers and all(isinstance(layer, nn.SyncBatchNorm) for layer in layers)
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == fixed
    assert model.stem.bn.training is False and all(b.bn.training for b in model.blocks4d().values())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(model.eval()(x), expected)


def test_synchronised_batch_norm_on_a_cpu_is_one_line(tiny):
    write_config(tiny, configs.merge(TINY, {"training": {"sync_batchnorm": True}}))
    done = train(tiny, check=False)
    assert_one_line_error(done, "training.sync_batchnorm needs GPUs")


class Batches:
    """A loader of one rank's batches, again and again the same."""

    def __init__(self, *batches: Batch):
        self.batches = batches

    def set_epoch(self, epoch: int) -> None:
        assert epoch == 0

    def __iter__(self):
        return iter(self.batches)


def test_precise_statistics_are_those_of_the_videos():
    """Of the first layer, whose input depends on no other statistics, by hand."""
    model = learner(ALONE).model
    model.stem.bn.running_mean.fill_(7.0)
    model.stem.bn.momentum, first, second, unused = 0.1, videos(4, 1), videos(4, 2), videos(4, 3)
    measure_batch_norm(model, Batches(first, second, unused), ALONE, batches=2)
    model.stem.bn.eval()  # else it would go on counting
    seen = []
    hook = model.stem.bn.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    for batch in (first, second):
        model(normalise(batch.frames, model.input))
    hook.remove()
    mean = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
    var = torch.stack([x.var((0, 2, 3)) for x in seen]).mean(0)
    assert torch.allclose(model.stem.bn.running_mean, mean, atol=1e-4)
    assert torch.allclose(model.stem.bn.running_var, var, rtol=1e-3)
    assert model.stem.bn.momentum == 0.1


def test_precise_statistics_are_measured_as_training_computes():
    """In bf16 where training is: those of another network's activations otherwise."""
    seen = {}
    for precision in ("float32", "bf16"):
        model = learner(ALONE).model
        kinds = set()
        model.res3.blocks[0].conv1.register_forward_hook(lambda m, i, y, kinds=kinds: kinds.add(y.dtype))
        measure_batch_norm(model, Batches(videos(4)), ALONE, 1, precision)
        seen[precision] = kinds
        assert model.stem.bn.running_mean.dtype == torch.float32
    assert seen == {"float32": {torch.float32}, "bf16": {torch.bfloat16}}


@pytest.mark.slow
def test_what_is_frozen_stays_so_in_the_average(tiny):
    """Its statistics too, which precise batch norm measured anew: a network that was not trained."""
    first = {"epochs": 1}
    second = {"ema": 0.9, "precise_bn_videos": 8, "epochs": 1}
    stages = [
        {"name": "one", "training": first},
        {"name": "two", "freeze": ["backbone"], "training": second},
    ]
    write_config(tiny, configs.merge(TINY, {"models": {"v4d": {"stages": stages}}}))
    networks = []
    for stage_name in ("one", "two"):
        train(tiny, stage_name)
        networks.append(load_model(tiny / f"results/tiny/v4d/{stage_name}/final.pt").model)
    before, after = networks
    freeze(before, "backbone")
    frozen, old, new = frozen_names(before), before.state_dict(), after.state_dict()
    assert len(frozen) > 40 and all(torch.equal(new[name], old[name]) for name in frozen)
    assert any(not torch.equal(new[name], old[name]) for name in new.keys() - frozen)


def test_frozen_statistics_are_left_alone():
    model = create_model("v4d_tiny", num_classes=3, units=2, frames=2)
    freeze(model, "batchnorm")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure_batch_norm(model, Batches(videos(4)), DistributedContext(0, 1, torch.device("cpu")), batches=1)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_average_of_the_weights_is_what_is_validated_and_kept(tiny, monkeypatch):
    write_config(tiny, configs.merge(TINY, {"training": {"ema": 0.9, "precise_bn_videos": 8}}))
    train(tiny)
    stage_folder = tiny / "results/tiny/v4d/main"
    state = torch.load(stage_folder / "checkpoints/last.pt", weights_only=True)
    final = load_model(stage_folder / "final.pt").model.state_dict()
    assert all(torch.equal(final[name], value) for name, value in state["average"].items())
    assert any(not torch.equal(final[name], value) for name, value in state["model"].items())
    monkeypatch.chdir(tiny)
    run = Trainer(configs.load("config.yaml"), "v4d", "main", ALONE)
    batches = validation_batches(run.stage, run.val_videos, ALONE)
    numbers = validate(load_model(stage_folder / "final.pt").model, batches, ALONE, 10)
    told = read_json(stage_folder / "metrics.json")["epochs"][-1]
    assert numbers["val/loss"] == pytest.approx(told["val/loss"], rel=1e-6)


@pytest.mark.slow
def test_a_checkpoint_of_a_training_is_a_model_too(tiny):
    """So that the best epoch can be tested, exported and used like the last one."""
    train(tiny)
    stage_folder = tiny / "results/tiny/v4d/main"
    last, final = load_model(stage_folder / "checkpoints/last.pt"), load_model(stage_folder / "final.pt")
    assert all(torch.equal(final.model.state_dict()[n], v) for n, v in last.model.state_dict().items())
    assert last.classes == final.classes and last.architecture == final.architecture
    assert last.info == {key: value for key, value in final.info.items() if key != "mlflow_run_id"}
    best = "results/tiny/v4d/main/checkpoints/best.pt"
    write_config(tiny, configs.merge(TINY, {"models": {"v4d": {"checkpoint": best}}}), "best.yaml")
    run_rank("v4d.evaluation.stage", "--config", "best.yaml", "--model", "v4d", cwd=tiny)
    assert (tiny / "results/tiny/v4d/test/metrics.json").exists()


def what_ends_the_training(ranks: DistributedContext, project: Path) -> str:
    os.chdir(project)
    with pytest.raises(V4DError) as error:
        Trainer(configs.load("config.yaml"), "v4d", "main", ranks).run()
    return str(error.value)


def test_a_loss_that_is_not_finite_stops_with_step_rate_and_videos(tiny):
    changes = {"training": {"optimizer": {"lr": 1e30}, "schedule": {"name": "constant"}, "log_steps": 1}}
    write_config(tiny, configs.merge(TINY, changes | {"models": {"v4d": {"dropout": 0.0}}}))
    first, second = in_ranks(2, what_ends_the_training, tiny)
    assert "of epoch 1, learning rate 1e+30, videos train_0" in first and "debug.pt" in first
    assert second == first
    folder = tiny / "results/tiny/v4d/main"
    assert not (folder / "final.pt").exists() and not (folder / "checkpoints/last.pt").exists()
    state = torch.load(folder / "checkpoints/debug.pt", weights_only=True)
    assert any(not value.isfinite().all() for value in state["model"].values() if value.is_floating_point())


def test_a_bad_video_that_may_be_skipped_is_named_and_counted(tiny):
    shard = tiny / "data/tiny/frames/train/part_1.lmdb"
    bad = ShardReader(shard).video_ids[0]
    frames = ShardReader(shard).num_frames(bad)
    shard.write_bytes(shard.read_bytes()[:-60])
    with (
        lmdb.open(str(shard), subdir=False, lock=False, map_size=1 << 28) as env,
        env.begin(write=True) as transaction,
    ):
        for frame in range(frames):
            transaction.put(frame_key(0, frame), b"no picture")
    seal(shard)
    options = {"bad_frames": "skip_video", "decode_on": "device", "epochs": 1}
    write_config(tiny, configs.merge(TINY, {"training": options}))
    done = train(tiny)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("skipped: ")]
    assert line.startswith(f"skipped: video {bad}: ")  # as the device says it; the host would name the frame
    (epoch,) = read_json(tiny / "results/tiny/v4d/main/metrics.json")["epochs"]
    assert epoch["train/skipped_videos"] == 1


def test_the_epochs_as_a_table():
    row = {"train/loss": 1.5, "train/top1": 40.0, "val/loss": 1.25, "val/top5": 90.0, "seconds": 12.3}
    row |= {"perf/videos_per_second": 81.26, "perf/data_wait_fraction": 0.031}
    history = [row | {"epoch": n, "val/top1": top1} for n, top1 in enumerate([10, 60, 50, 60, 20, 30], 1)]
    lines = epoch_table(history, epochs=100)
    assert [line.split()[0] for line in lines] == ["epoch", "2/100", "4/100", "5/100", "6/100"]
    assert [line.split()[1] == "*" for line in lines[1:]] == [True, False, False, False]
    assert lines[1].split()[2:] == ["1.5000", "40.0", "1.2500", "60.0", "90.0", "81.3", "3", "12"]
    assert len({len(line) for line in lines}) == 1
