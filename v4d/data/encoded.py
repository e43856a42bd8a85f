"""Frames that leave the host as JPEGs: workers only read, the device decodes, crops and resizes.

For machines whose cores cannot feed their GPUs. nvJPEG interpolates chroma otherwise than libjpeg-turbo, so
train and test should go one way.
"""

import dataclasses
from dataclasses import dataclass

import torch

from v4d.data import augment
from v4d.data.augment import Augmentation
from v4d.data.batch import Batch
from v4d.errors import V4DError


@dataclass
class EncodedFrames:
    """The frames of a batch, still compressed: what `Batch.frames` holds until the batch is on its device."""

    data: torch.Tensor
    """uint8 `[bytes]`: JPEGs, one after the other, U * T of each video that is not dropped."""
    lengths: list[list[int]]
    """Bytes of each JPEG, a list a video; empty for a dropped video."""
    views: list[list[Augmentation]]
    """What to do with a video's frames, a view each."""
    grid: tuple[int, int]
    """U and T."""
    views_axis: bool
    names: list[str]
    """Videos by id, for messages."""
    skip_bad: bool
    """Drop a video whose frames the device cannot decode, rather than raise."""

    def pin_memory(self) -> "EncodedFrames":
        return dataclasses.replace(self, data=self.data.pin_memory())


def decoded(batch: Batch, device: torch.device | str) -> Batch:
    """A batch of encoded frames as one of uint8 frames on the device; the JPEGs themselves stay on the host.

    Raises:
        V4DError: the device cannot decode a frame, unless bad videos are dropped.
    """
    frames: EncodedFrames = batch.frames
    size, crops = frames.views[0][0].size, max(map(len, frames.views))
    out = torch.zeros(
        (len(frames.views), crops, *frames.grid, size, size, 3), dtype=torch.uint8, device=device
    )
    weight, skipped = batch.weight.clone(), list(batch.skipped)
    for place, (images, reason) in enumerate(_decode(frames, device)):
        if reason is not None:
            if not frames.skip_bad:
                raise V4DError(f"video {frames.names[place]}: {reason}")
            weight[place] = 0
            skipped.append(f"video {frames.names[place]}: {reason}")
        elif images is not None:
            views = frames.views[place]
            for view in range(crops):
                target = out[place, view].flatten(0, 1)
                augment.apply(images, views[min(view, len(views) - 1)], target)
    return dataclasses.replace(
        batch,
        frames=out if frames.views_axis else out[:, 0],
        class_index=batch.class_index.to(device, non_blocking=True),
        weight=weight.to(device, non_blocking=True),
        skipped=skipped,
    )


def _decode(
    frames: EncodedFrames, device: torch.device | str
) -> list[tuple[torch.Tensor | None, str | None]]:
    """For each video uint8 `[U * T, H, W, 3]` on the device (None if dropped), or what is wrong with it.

    All JPEGs of the batch go to the decoder at once, which is how it is fast; should one of them be bad it
    gives none back, and they go video by video.

    Raises:
        V4DError: the device decodes nothing, whatever it is given.
    """
    jpegs = iter(frames.data.split([length for lengths in frames.lengths for length in lengths]))
    videos = [[next(jpegs) for _ in lengths] for lengths in frames.lengths]
    try:
        images = iter(_decode_all([jpeg for video in videos for jpeg in video], device))
        return [(_stacked([next(images) for _ in video]), None) for video in videos]
    except RuntimeError as error:
        _check_that_frames_are_at_fault(error, device)
        return [_decode_one(video, device) for video in videos]


def _decode_one(
    video: list[torch.Tensor], device: torch.device | str
) -> tuple[torch.Tensor | None, str | None]:
    try:
        return _stacked(_decode_all(video, device)), None
    except RuntimeError as error:
        _check_that_frames_are_at_fault(error, device)
        return None, _first_line(error)


def _check_that_frames_are_at_fault(error: RuntimeError, device: torch.device | str) -> None:
    """A GPU without memory, driver or nvJPEG fails in the same way, and no video may be dropped for that."""
    from torchvision.io import encode_jpeg

    if "out of memory" in str(error):
        raise error
    try:
        _decode_all([encode_jpeg(torch.zeros((3, 16, 16), dtype=torch.uint8))], device)
    except RuntimeError as failure:
        raise V4DError(f"{device} decodes no JPEG: {_first_line(failure)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _decode_all(jpegs: list[torch.Tensor], device: torch.device | str) -> list[torch.Tensor]:
    # Imported here for no worker needs it. Deprecated since torchvision 0.29, in favour of torchcodec.
    from torchvision.io import ImageReadMode, decode_jpeg

    if torch.device(device).type == "cuda":
        # torchvision decodes on its own stream into memory of the current one, for which it does not wait:
        # what it is given may be memory that frames of the batch before are still being cropped from.
        torch.cuda.current_stream(device).synchronize()
    return decode_jpeg(jpegs, ImageReadMode.RGB, device=device) if jpegs else []


def _stacked(images: list[torch.Tensor]) -> torch.Tensor | None:
    """`[3, H, W]` each -> `[F, H, W, 3]`."""
    return torch.stack(images).permute(0, 2, 3, 1).contiguous() if images else None
