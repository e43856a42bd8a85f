"""Validation with exact numbers, every video once at any number of ranks; and precise batch norm."""

from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F

from v4d.config import takes_bf16
from v4d.data.batch import normalise, prefetch
from v4d.data.loader import Loader
from v4d.distributed.group import DistributedContext, gather_objects, sum_over_ranks
from v4d.errors import V4DError
from v4d.models.base import BatchNorm, VideoModel

Row = tuple[str, float, float, float]
"""video id, loss, top-1 right (0 or 1), top-5 right"""


def autocast(context: DistributedContext, precision: str) -> torch.autocast:
    """Compute as a training of that precision does."""
    kind = context.device.type
    return torch.autocast(kind, torch.bfloat16, enabled=takes_bf16(precision, kind))


@torch.inference_mode()
def validate(
    model: VideoModel, loader: Loader, context: DistributedContext, expected: int, precision: str = "float32"
) -> dict[str, float]:
    """Loss, top-1 and top-5 (percent) over the videos of all ranks' loaders, the same on every rank.

    Keys are `val/loss`, `val/top1`, `val/top5`; the model is left in evaluation mode.

    Raises:
        V4DError: the videos seen are not `expected` different ones.
    """
    model.eval()
    rows: list[tuple[list[str], torch.Tensor]] = []
    for batch in prefetch(loader, context.device):
        with autocast(context, precision):
            logits = model(normalise(batch.frames, model.input)).float()
        loss = F.cross_entropy(logits, batch.class_index, reduction="none")
        ranked = logits.topk(min(5, logits.shape[1]), 1).indices == batch.class_index[:, None]
        columns = torch.stack([loss, ranked[:, 0].float(), ranked.any(1).float()], 1)
        rows.append((batch.video_id, columns))  # stays on the device, so that the host does not wait
    mine = [
        (video_id, *values)
        for video_ids, columns in rows
        for video_id, values in zip(video_ids, columns.tolist(), strict=True)
    ]
    return summarise([row for part in gather_objects(context, mine) for row in part], expected)


def summarise(rows: list[Row], expected: int) -> dict[str, float]:
    """Means over videos, in the order of ids, so that the sum is the same at any number of ranks."""
    videos = len({row[0] for row in rows})
    if videos != expected or len(rows) != expected:
        raise V4DError(
            f"validation saw {videos} different videos in {len(rows)} rows; the manifest has {expected}"
        )
    rows = sorted(rows)
    return {
        "val/loss": sum(row[1] for row in rows) / expected,
        "val/top1": 100.0 * sum(row[2] for row in rows) / expected,
        "val/top5": 100.0 * sum(row[3] for row in rows) / expected,
    }


@torch.no_grad()
def measure_batch_norm(
    model: VideoModel, loader: Loader, context: DistributedContext, batches: int, precision: str = "float32"
) -> None:
    """Measure batch norm statistics anew ("precise BN"), in place of running averages, as training computes.

    Each layer's mean and variance become their average over each rank's first `batches` batches.

    Every rank measures its share, and the average over the ranks is set on all of them. Layers in evaluation
    mode (frozen ones) are left alone.
    """
    model.train()
    layers: list[Any] = [m for m in model.modules() if isinstance(m, BatchNorm) and m.training]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # cumulative average
    loader.set_epoch(0)
    for batch in islice(prefetch(loader, context.device), batches):
        with autocast(context, precision):
            model(normalise(batch.frames, model.input))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        for statistic in (layer.running_mean, layer.running_var):
            statistic.copy_(sum_over_ranks(context, statistic.clone()) / context.size)
