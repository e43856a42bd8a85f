"""What a training stage reads: its batches, and what is refused before the first of them."""

import torch

from v4d.config import StageConfig, TrainingConfig, check_share
from v4d.data.batch_sampler import Share
from v4d.data.dataset import VideoRecord, ViewSpec
from v4d.data.loader import Loader, default_workers, eval_loader, train_loader
from v4d.data.sampling import ClipSpec
from v4d.distributed.group import DistributedContext
from v4d.errors import V4DError


def training_batches(
    stage: StageConfig,
    videos: list[VideoRecord],
    context: DistributedContext,
    seed: int,
    rules: int,
    *,
    equal: bool = False,
) -> Loader:
    """This rank's share of every step, a batch a pass where a step accumulates several.

    `rules` are `v4d.training.trainer.RULES`; `equal` as in `train_loader`.
    """
    settings = stage.training
    return train_loader(
        videos,
        _clip(stage),
        crop=settings.crop,
        batch_size=settings.batch_size // (context.size * settings.accumulate),
        accumulate=settings.accumulate,
        share=Share(context.rank, context.size),
        workers=_workers(stage, context),
        seed=seed,
        bad_frames=settings.bad_frames,
        locality=settings.locality,
        decode_on=settings.decode_on,
        snap=rules > 1,
        equal=equal,
    )


def validation_batches(stage: StageConfig, videos: list[VideoRecord], context: DistributedContext) -> Loader:
    """This rank's share of the validation videos, each once, one crop."""
    settings = stage.training
    return eval_loader(
        videos,
        _clip(stage),
        ViewSpec(settings.crop.size, axis=False),
        batch_size=max(1, settings.batch_size // context.size),
        share=Share(context.rank, context.size),
        workers=_workers(stage, context),
        decode_on=settings.decode_on,
    )


def _clip(stage: StageConfig) -> ClipSpec:
    return ClipSpec(stage.units, stage.frames, stage.frame_stride)


def _workers(stage: StageConfig, context: DistributedContext) -> int:
    """Loader processes: as configured, or what the cores allow; none beside processes that fill a CPU."""
    if stage.training.workers is not None:
        return stage.training.workers
    return default_workers(torch.cuda.device_count()) if context.device.type == "cuda" else 0


def optimiser_steps(training: TrainingConfig, videos: int) -> int:
    """Steps of a whole stage on so many videos; see `TrainPlan` for those of an epoch."""
    return training.epochs * -(-videos // training.batch_size)


def check_data(stage: StageConfig, videos: list[VideoRecord], classes: list[str], processes: int) -> None:
    """Refuse before the first step what cannot be trained.

    Raises:
        V4DError: a class without training videos, a batch larger than the data set or not divisible,
            units that no video can serve.
    """
    settings = stage.training
    absent = sorted(set(range(len(classes))) - {video.class_index for video in videos})
    if absent:
        raise V4DError(f"split {settings.split!r} has no usable video of class {classes[absent[0]]!r}")
    check_share(settings, processes)
    if settings.batch_size > len(videos):
        raise V4DError(f"training.batch_size {settings.batch_size} exceeds the {len(videos)} training videos")
    longest = max(video.num_frames for video in videos)
    if stage.units > longest:
        raise V4DError(f"units {stage.units}: the longest training video has {longest} frames")
    if settings.sync_batchnorm and not torch.cuda.is_available():
        raise V4DError("training.sync_batchnorm needs GPUs")
