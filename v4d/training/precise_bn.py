"""Batch norm statistics measured anew over training videos ("precise BN"), in place of running averages."""

from itertools import islice

import torch
from torch import nn

from v4d.data.loader import Loader, normalise, prefetch
from v4d.distributed.group import DistributedContext, sum_over_ranks
from v4d.models.v4d import VideoNet


@torch.no_grad()
def measure_statistics(model: VideoNet, loader: Loader, ranks: DistributedContext, batches: int) -> None:
    """Set each layer's mean and variance to their average over each rank's first `batches` batches.

    Every rank measures its share; the averages over all of them are set on all. Layers in evaluation mode
    (frozen ones) are left alone.
    """
    model.train()
    layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a cumulative average over the batches that follow
    loader.set_epoch(0)
    for batch in islice(prefetch(loader, ranks.device), batches):
        model(normalise(batch.frames))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        for statistic in (layer.running_mean, layer.running_var):
            statistic.copy_(sum_over_ranks(ranks, statistic.clone()) / ranks.size)
