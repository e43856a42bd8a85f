"""Batches of videos from shards, made by worker processes: the same whatever their number.

loader = train_loader(videos, ClipSpec(units=4, frames=8, stride=8), crop=config.crop, batch_size=6, ...)
for epoch in range(epochs):
    loader.set_epoch(epoch)
    for batch in prefetch(loader, device):
        logits = model(normalise(batch.frames, model.input, torch.bfloat16))
"""

import errno
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader

from v4d.config import CropConfig
from v4d.data.batch import Batch
from v4d.data.batch_sampler import ALONE, EvalPlan, Pick, Share, TrainPlan
from v4d.data.dataset import EvalSamples, Failure, TrainSamples, VideoRecord, VideoTable, ViewSpec
from v4d.data.sampling import ClipSpec
from v4d.data.workers import fork_server
from v4d.errors import V4DError, WorkerDied
from v4d.utils.processes import raise_file_limit

_BATCHES_AHEAD = 3
_MOST_WORKERS = 16


def train_loader(
    videos: Sequence[VideoRecord],
    clip: ClipSpec,
    *,
    crop: CropConfig,
    batch_size: int,
    accumulate: int = 1,
    share: Share = ALONE,
    workers: int = 0,
    seed: int = 0,
    bad_frames: str = "raise",
    locality: int = 0,
    decode_on: str = "host",
    snap: bool = True,
    equal: bool = False,
) -> "Loader":
    """Every video once an epoch in random order; batches `[N, U, T, H, W, 3]` of at most `batch_size` videos.

    Every rank makes the same number of steps, a multiple of `accumulate`; `TrainPlan` tells how videos
    are shared out, `Batch.weight` how to average over them. A video's units and augmentation depend on
    (seed, epoch, video id) only.

    Args:
        batch_size: videos of one rank in one step.
        workers: loader processes; 0 loads in this one.
        bad_frames: `raise`, or `skip_video`: black frames of weight 0, and a line in `Batch.skipped`.
        locality: shards to shuffle over at a time; 0 for all.
        decode_on: `host`, or `device`: batches hold JPEGs until `prefetch` (or `Batch.to`) has the GPU
            decode and crop them; see `v4d.data.batch`.
        snap: as in `v4d.data.transforms.multi_scale_crop`.
        equal: whether every batch has `batch_size` videos, the last of a smaller one being fillers.

    Raises:
        V4DError: there are no videos. While iterating: a shard or frame is bad, or a worker died.
    """
    table = VideoTable(videos)
    samples = TrainSamples(table, clip, crop, seed, snap, bad_frames=bad_frames, decode_on=decode_on)
    plan = TrainPlan(table.shard, batch_size, share, accumulate, seed, locality, equal)
    return Loader(samples, plan, workers)


def eval_loader(
    videos: Sequence[VideoRecord],
    clip: ClipSpec,
    views: ViewSpec,
    *,
    batch_size: int = 1,
    share: Share = ALONE,
    workers: int = 0,
    decode_on: str = "host",
) -> "Loader":
    """Every video once over all ranks, in order and without padding: ranks may differ in steps.

    Batches are `[N, V, U, T, H, W, 3]` (`[N, U, T, H, W, 3]` without `views.axis`); V is `views.crops`, or 1
    where no frame of the batch has room for more. A bad frame stops the iteration.

    Args:
        batch_size, workers, decode_on: as in `train_loader`.

    Raises:
        V4DError: there are no videos. While iterating: as `train_loader`, or the crop is larger than a frame.
    """
    table = VideoTable(videos)
    samples = EvalSamples(table, clip, views, decode_on=decode_on)
    return Loader(samples, EvalPlan(len(table), batch_size, share), workers)


def default_workers(local_world_size: int = 1) -> int:
    """A sensible number of workers for each rank of this machine: the cores it may use, shared out."""
    cores = len(os.sched_getaffinity(0))
    return min(_MOST_WORKERS, max(1, cores // local_world_size - 1))


class Loader:
    """Iterates over one epoch's batches of one rank; workers live on from epoch to epoch."""

    def __init__(self, samples: TrainSamples | EvalSamples, plan: TrainPlan | EvalPlan, workers: int):
        self.plan = plan
        self._batches = _Batches(plan)
        self._waited = self._total = 0.0
        raise_file_limit()  # a batch in flight is some open files
        self._data = DataLoader(
            samples,
            batch_sampler=self._batches,
            collate_fn=_as_it_is,
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=_BATCHES_AHEAD if workers else None,
            # Forking a process with threads of torch, gloo or CUDA may deadlock. A fork server starts clean,
            # imports once, and then forks a worker in milliseconds.
            multiprocessing_context=fork_server(__name__) if workers else None,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # DataLoader would draw from the global one
        )

    def __len__(self) -> int:
        """Steps of a whole epoch, wherever this one starts."""
        return self.plan.steps

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """What the next iteration goes through: an epoch, from a step on (to resume in its middle)."""
        self._batches.epoch, self._batches.start_step = epoch, start_step

    def __iter__(self) -> Iterator[Batch]:
        self._waited = self._total = 0.0
        begun = time.perf_counter()
        batches = None
        while True:
            asked = time.perf_counter()
            try:
                batches = batches or iter(self._data)
                batch = next(batches)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as error:
                raise _explained(error) from error
            finally:
                now = time.perf_counter()
                self._waited += now - asked
                self._total = now - begun
            if isinstance(batch, Failure):
                raise V4DError(batch.message)
            yield batch

    @property
    def data_wait_fraction(self) -> float:
        """Share of the time of the running (or last) epoch in which the consumer waited for data."""
        return self._waited / self._total if self._total else 0.0


class _Batches:
    """The batch sampler: what the epoch and start step ask for when iteration begins.

    It does not know its loader: in a cycle of references, queues are gone before workers are told to stop.
    """

    def __init__(self, plan: TrainPlan | EvalPlan):
        self.plan = plan
        self.epoch = self.start_step = 0

    def __iter__(self) -> Iterator[list[Pick]]:
        return iter(self.plan.batches(self.epoch, self.start_step))

    def __len__(self) -> int:
        return self.plan.steps - self.start_step


def _as_it_is(batch: Any) -> Any:
    return batch


def _explained(error: Exception) -> Exception:
    """A worker that the kernel killed leaves no message but its signal, or a torn connection."""
    if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE) or "ancdata" in str(error):
        return V4DError(f"too many open files ({error}): raise `ulimit -n`, or lower training.workers")
    torn = isinstance(error, (ConnectionError, EOFError))
    if torn or "exited unexpectedly" in str(error) or "killed by signal" in str(error):
        what = type(error).__name__ if torn else str(error).partition(". ")[0]
        return WorkerDied(
            f"a loader worker died ({what}): its last words are above, or it ran out of memory, or met a "
            f"damaged shard, which `v4d verify` finds"
        )
    return error
