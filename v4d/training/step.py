"""The training loop of one stage: epochs of steps, validation, checkpoints, numbers.

Everything that decides the next step follows from the checkpoint and from (seed, epoch, step): a training
that was killed and resumed ends with the same weights as one that was not.
"""

import contextlib
import hashlib
import math
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from v4d.config import StageConfig, TrainingConfig, takes_bf16
from v4d.data.batch import Batch, normalise, prefetch
from v4d.data.loader import Loader
from v4d.distributed.group import DistributedContext, gather_objects, sum_over_ranks
from v4d.errors import V4DError
from v4d.models.base import VideoModel
from v4d.models.freezing import frozen_names
from v4d.training import optim


class Preempted(Exception):
    """The machine wants its place back; the state has been saved."""

    run_status = "KILLED"
    """What the tracker calls a run that ends so, until it goes on."""


class Diverged(V4DError):
    """The loss is not finite."""


@dataclass
class TrainState:
    """Where a training stands, and what the epoch has summed up so far."""

    epoch: int = 0
    """Epochs finished."""
    step: int = 0
    """Optimiser steps finished in the current epoch."""
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0, 0.0])
    """Over the videos of the epoch so far: loss, correct ones, videos, skipped ones."""
    seconds: float = 0.0
    """Of training so far, over all attempts."""
    history: list[dict[str, float]] = field(default_factory=list)
    """A row an epoch, as in metrics.json."""
    best: dict[str, float] = field(default_factory=dict)
    """The epoch with the highest `val/top1`: both; empty before the first validation."""


class StopSignal:
    """Turns SIGTERM, SIGUSR1 and SIGINT into a flag that the loop looks at."""

    def __init__(self) -> None:
        self.received = False
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: Any) -> None:
        self.received = True


class TrainStep:
    """A network with its optimiser: what a step does, on one rank."""

    def __init__(
        self,
        model: VideoModel,
        stage: StageConfig,
        context: DistributedContext,
        seed: int,
        *,
        compiled: bool = False,
    ):
        self.settings: TrainingConfig = stage.training
        self.context, self.seed = context, seed
        # Converted in place: parameters, names and what is frozen stay.
        self.model = nn.SyncBatchNorm.convert_sync_batchnorm(model) if self.settings.sync_batchnorm else model
        if self.settings.checkpoint_activations:
            if model.gradient_checkpointing is None:
                raise V4DError(f"training.checkpoint_activations: {stage.arch} cannot recompute activations")
            model.gradient_checkpointing = True
        self.optimizer = optim.build_optimizer(model, self.settings.optimizer)
        self.average: optim.WeightAverage | None = None
        if self.settings.ema:
            self.average = optim.WeightAverage(self.model, self.settings.ema, frozen_names(model))
        self.network = self._wrapped(model, compiled)
        self._no_sync: Callable[[], Any] = getattr(self.network, "no_sync", contextlib.nullcontext)
        self.bf16 = takes_bf16(self.settings.precision, context.device.type)

    def _wrapped(self, model: VideoModel, compiled: bool) -> nn.Module:
        network: nn.Module = model
        if torch.distributed.is_initialized():
            devices = [self.context.device.index] if self.context.device.type == "cuda" else None
            # Synchronised batch norms have the same statistics everywhere already.
            buffers: dict[str, Any] = {"broadcast_buffers": False} if self.settings.sync_batchnorm else {}
            network = DistributedDataParallel(network, devices, gradient_as_bucket_view=True, **buffers)
        # From outside: torch splits the graph where DDP starts to reduce gradients. A compiled network inside
        # DDP would hand over all its gradients at the end of the backward pass.
        return cast(nn.Module, torch.compile(network, dynamic=False)) if compiled else network

    def step(self, batches: list[Batch], epoch: int, step: int, part: float) -> torch.Tensor:
        """One optimiser step over the batches (gradient accumulation); `part` is the epoch as a fraction.

        The loss is the mean over all videos of the step on all ranks, exactly, however unevenly the last
        step of an epoch is spread.

        Returns:
            Sums over this rank's videos: loss, correct ones, videos, skipped videos. On the device.
        """
        optim.set_lr(self.optimizer, self.lr(part))
        self.optimizer.zero_grad(set_to_none=True)
        counts = torch.stack([batch.weight.sum() for batch in batches]).to(self.context.device)
        total = sum_over_ranks(self.context, counts.sum()).clamp(min=1)
        sums = torch.zeros(4, dtype=torch.float64, device=self.context.device)
        for number, batch in enumerate(batches):
            seed_step(self.seed, epoch, step, number, self.context.rank)
            try:
                # DDP's reduction is held back until the last batch of a step.
                with self._no_sync() if number + 1 < len(batches) else contextlib.nullcontext():
                    loss, batch_sums = self._loss(batch)
                    # DDP divides gradients by the number of ranks.
                    (loss * self.context.size / total).backward()
            except torch.OutOfMemoryError as error:
                raise V4DError(self._too_large()) from error
            sums += batch_sums
        if self.settings.clip_grad_norm is not None:
            parameters, limit = self.model.parameters(), self.settings.clip_grad_norm
            nn.utils.clip_grad_norm_(parameters, limit, foreach=True)  # the host does not wait for the norm
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.model)
        return sums

    def _too_large(self) -> str:
        """What helps where a GPU does not hold its share of a batch."""
        share = self.settings.batch_size // self.context.size
        passes = self.settings.accumulate
        more = next((count for count in range(passes + 1, share + 1) if share % count == 0), None)
        ways = [f"training.accumulate {more} (the same step in more passes)"] if more else []
        ways += [] if self.settings.checkpoint_activations else ["training.checkpoint_activations true"]
        ways += ["a smaller training.batch_size with training.optimizer.reference_batch at today's"]
        return f"the GPU's memory does not hold {share // passes} videos a pass: set {', or '.join(ways)}"

    def lr(self, part: float) -> float:
        """The learning rate at an epoch, which may be a fraction."""
        settings = self.settings
        return optim.peak_lr(settings) * optim.lr_factor(settings.schedule, part, settings.epochs)

    def _loss(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The weighted sum of losses over a batch, and the four sums of `step`."""
        # Autocast rounds the network's input anyway; what is mixed is rounded after it was mixed.
        half = self.bf16 and not self.settings.mixup
        x = normalise(batch.frames, self.model.input, torch.bfloat16 if half else torch.float32)
        labels, weight = batch.class_index, batch.weight
        mixed, share = None, 1.0
        if self.settings.mixup:
            share = float(torch.distributions.Beta(self.settings.mixup, self.settings.mixup).sample())
            others = partners(weight)
            x = x * share + x[others] * (1 - share)
            mixed = labels[others]
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self.network(x)
        losses = self._cross_entropy(logits, labels)
        if mixed is not None:
            losses = losses * share + self._cross_entropy(logits, mixed) * (1 - share)
        loss = (losses * weight).sum()  # dropped videos and fillers have weight 0
        correct = ((logits.argmax(1) == labels) * weight).sum()
        skipped = torch.full((), len(batch.skipped), dtype=weight.dtype, device=weight.device)
        return loss, torch.stack([loss.detach(), correct, weight.sum(), skipped]).double()

    def _cross_entropy(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        smoothing = self.settings.label_smoothing
        return F.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=smoothing)

    def state(self) -> dict[str, Any]:
        """Weights, optimiser and weight average: what `load_state` takes."""
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.average is not None:
            state |= {"average": self.average.state, "average_steps": self.average.steps}
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.take(state["average"])
            self.average.steps = state.get("average_steps")


def partners(weight: torch.Tensor) -> torch.Tensor:
    """With which video of a batch each is mixed: the one before it, of those whose weight is above 0.

    The frames of the others are black. One without another stays as it is. The host does not wait.
    """
    counted = weight > 0
    order = torch.argsort(~counted, stable=True)
    place = torch.arange(len(weight), device=weight.device)
    before = torch.where(place < counted.sum(), (place - 1) % counted.sum().clamp(min=1), place)
    return torch.empty_like(order).scatter_(0, order, order[before])


def train_epoch(
    train_step: TrainStep, loader: Loader, state: TrainState, stop: StopSignal
) -> Iterator[tuple[int, list[float], bool]]:
    """Train from `state.step` to the end of the epoch.

    Yields:
        `(steps of the epoch, sums over all ranks since the last yield, whether any rank wants to stop)` every
        `log_steps` steps and after the last: the only moments at which the host waits for the device.

    Raises:
        Diverged: the loss is not finite.
    """
    settings, context = train_step.settings, train_step.context
    accumulate = settings.accumulate
    loader.set_epoch(state.epoch, start_step=state.step * accumulate)
    steps = len(loader) // accumulate
    pending = torch.zeros(4, dtype=torch.float64, device=context.device)
    seen: list[tuple[float, int, list[str], torch.Tensor]] = []
    batches = prefetch(loader, context.device)
    while state.step < steps:
        group = list(islice(batches, accumulate))
        for line in (line for batch in group for line in batch.skipped):
            print(f"skipped: {line}", file=sys.stderr, flush=True)
        part = state.epoch + state.step / steps
        sums = train_step.step(group, state.epoch, state.step, part)
        pending += sums
        seen.append((part, state.step, [i for batch in group for i in batch.video_id if i], sums[0]))
        state.step += 1
        if state.step % settings.log_steps == 0 or state.step == steps:
            bad = _first_bad(seen, train_step)
            flags = pending.new_tensor([float(stop.received), float(bad is not None)])
            *totals, stops, diverged = sum_over_ranks(context, torch.cat([pending, flags])).tolist()
            if diverged:
                raise Diverged(next(text for text in gather_objects(context, bad) if text))
            yield steps, totals, stops > 0
            pending.zero_()
            seen.clear()


def _first_bad(seen: list[tuple[float, int, list[str], torch.Tensor]], train_step: TrainStep) -> str | None:
    """A line on the first step whose loss is not finite."""
    losses = torch.stack([loss for *_, loss in seen]).tolist()
    for (part, step, video_ids, _), loss in zip(seen, losses, strict=True):
        if not math.isfinite(loss):
            return (
                f"loss is {loss} at step {step + 1} of epoch {int(part) + 1}, learning rate "
                f"{train_step.lr(part):.3g}, videos {', '.join(video_ids)}"
            )
    return None


def seed_step(seed: int, epoch: int, step: int, batch: int, rank: int) -> None:
    """Seed what a forward pass draws (dropout, mixup) from its place in the training.

    No generator's state needs to be kept, and a resumed training draws what it would have drawn.
    """
    text = f"{seed}/{epoch}/{step}/{batch}/{rank}".encode()
    torch.manual_seed(int.from_bytes(hashlib.sha256(text).digest()[:8], "little") >> 1)
