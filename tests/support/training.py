"""One step of a training on videos of noise: a small network, its settings, batches."""

import torch

from v4d import config as configs
from v4d.config import StageConfig
from v4d.data.batch import Batch
from v4d.distributed.group import DistributedContext
from v4d.models import create_model
from v4d.training.step import TrainStep

SIZE = 16
ALONE = DistributedContext(0, 1, torch.device("cpu"))


def stage(**training) -> StageConfig:
    document = {
        "name": "t",
        "dataset": {"name": "t", "source": "synthetic"},
        "models": {
            "m": {
                "arch": "v4d_tiny",
                "units": 2,
                "frames": 2,
                "dropout": 0.0,
                "training": {"batch_size": 8, "clip_grad_norm": None} | training,
            }
        },
    }
    return configs.build(configs.resolve(document)).models["m"].final


def videos(count: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (count, 2, 2, SIZE, SIZE, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 3, (count,), generator=generator)
    return Batch(frames, labels, [f"v{n}" for n in range(count)], torch.ones(count))


def part(batch: Batch, start: int, stop: int) -> Batch:
    span = slice(start, stop)
    return Batch(batch.frames[span], batch.class_index[span], batch.video_id[span], batch.weight[span])


def learner(ranks: DistributedContext, **training) -> TrainStep:
    torch.manual_seed(0)
    model = create_model("v4d_tiny", num_classes=3, units=2, frames=2, dropout=0.0)
    # Batch norm in train mode sees its own rank's videos; with statistics fixed a step is a plain sum.
    model.eval()
    return TrainStep(model, stage(**training), ranks, seed=0)
