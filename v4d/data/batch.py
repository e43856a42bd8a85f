"""A batch of videos, on the host and on its way to the device.

Letters: N videos, V views (crops), U units, T frames, H, W, C. Frames stay uint8 and channels-last until they
are on the device: four times less to copy, and normalising there costs nothing that a host could pay for.
On machines whose cores cannot feed their GPUs, workers only read JPEGs and the device decodes, crops and
resizes them (`EncodedFrames`); nvJPEG interpolates chroma differently, so train and test should go one way.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch

from v4d.data import transforms
from v4d.data.transforms import Augmentation
from v4d.errors import V4DError
from v4d.models.base import InputSpec


@dataclass
class Batch:
    """Videos of one step of one rank."""

    frames: torch.Tensor
    """uint8 `[N, U, T, H, W, 3]`, or `[N, V, U, T, H, W, 3]` with views; empty while there is `encoded`."""
    class_index: torch.Tensor
    """int64 `[N]`."""
    video_id: list[str]
    """Empty for a filler: ranks make the same number of steps, and this one had no video left for it."""
    weight: torch.Tensor
    """float32 `[N]`: 1 for a video, 0 for a filler and for a bad video that was dropped (its frames are 0).

    Batches of one step may differ by one video between ranks. The exact mean over the step's videos is
    sum(weight * x) / sum(weight), both sums over all ranks."""
    skipped: list[str] = field(default_factory=list)
    """Why videos were dropped, a line each."""
    encoded: "EncodedFrames | None" = None
    """Where the device decodes: the frames, compressed, until the batch is there."""

    def __len__(self) -> int:
        return len(self.video_id)

    def pin_memory(self) -> "Batch":
        """The same in page-locked memory, from which a device copies by itself (DataLoader calls this)."""
        pinned = self._mapped(lambda tensor: tensor.pin_memory())
        pinned.encoded = self.encoded and self.encoded.pin_memory()
        return pinned

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on a device, decoded; from pinned memory the copy runs beside the host's work."""
        moved = self._mapped(lambda tensor: tensor.to(device, non_blocking=True))
        return moved if self.encoded is None else _decoded(moved, self.encoded, torch.device(device))

    def _mapped(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        frames, class_index, weight = map(change, (self.frames, self.class_index, self.weight))
        return dataclasses.replace(self, frames=frames, class_index=class_index, weight=weight)


def prefetch(batches: Iterable[Batch], device: torch.device | str) -> Iterator[Batch]:
    """Batches on the device; on CUDA the next one is copied on a stream of its own while this one is used."""
    device = torch.device(device)
    if device.type != "cuda":
        for batch in batches:
            yield batch.to(device)
        return
    stream = torch.cuda.Stream(device)
    ready = None
    for batch in batches:
        with torch.cuda.stream(stream):
            coming = batch.to(device)
        if ready is not None:
            yield _handed_over(ready, stream, device)
        ready = coming
    if ready is not None:
        yield _handed_over(ready, stream, device)


def _handed_over(batch: Batch, stream: "torch.cuda.Stream", device: torch.device) -> Batch:
    """Have the compute stream wait for the copy, and the allocator know that both streams use it."""
    current = torch.cuda.current_stream(device)
    current.wait_stream(stream)
    for tensor in (batch.frames, batch.class_index, batch.weight):
        tensor.record_stream(current)
    return batch


def normalise(frames: torch.Tensor, spec: InputSpec, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A network's mean and deviation, and its order of dimensions.

    Args:
        frames: uint8 `[..., U, T, H, W, 3]` on the device that computes.
        spec: the network's `input`.

    Returns:
        `[..., U, 3, T, H, W]` of that type, computed in float32: a permuted view of channels-last memory.
    """
    shift, scale = _shift_and_scale(spec, frames.device)
    return torch.addcmul(shift, frames.float(), scale).to(dtype).movedim(-1, -4)


@functools.cache
def _shift_and_scale(spec: InputSpec, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """What normalises a byte, by channel. Made once on a device: the host waits for the copy."""
    with torch.inference_mode(False):
        scale = 1 / torch.tensor(spec.std)
        return (-torch.tensor(spec.mean) * scale).to(device), (scale / 255).to(device)


@dataclass
class EncodedFrames:
    """The frames of a batch, still compressed."""

    data: torch.Tensor
    """uint8 `[bytes]`: JPEGs, one after the other, U * T of each video that is not dropped."""
    lengths: list[list[int]]
    """Bytes of each JPEG, a list a video; empty for a dropped video."""
    views: list[list[Augmentation]]
    """What to do with a video's frames, a view each."""
    grid: tuple[int, int]
    """U and T."""
    views_axis: bool
    """Whether the decoded frames keep the axis of views."""
    names: list[str]
    """Videos by id, for messages."""
    skip_bad: bool
    """Drop a video whose frames the device cannot decode, rather than raise."""

    def pin_memory(self) -> "EncodedFrames":
        """The same in page-locked memory."""
        return dataclasses.replace(self, data=self.data.pin_memory())


def _decoded(batch: Batch, frames: EncodedFrames, device: torch.device) -> Batch:
    """A batch on its device with its frames decoded there; the JPEGs themselves stay on the host.

    Raises:
        V4DError: the device cannot decode a frame, unless bad videos are dropped.
    """
    size, crops = frames.views[0][0].size, max(map(len, frames.views))
    shape = (len(frames.views), crops, *frames.grid, size, size, 3)
    out = torch.zeros(shape, dtype=torch.uint8, device=device)
    weight, skipped = batch.weight.clone(), list(batch.skipped)
    jpegs = iter(frames.data.split([length for lengths in frames.lengths for length in lengths]))
    videos = [[next(jpegs) for _ in lengths] for lengths in frames.lengths]
    for place, (images, reason) in enumerate(_decode(videos, device)):
        if reason is not None:
            if not frames.skip_bad:
                raise V4DError(f"video {frames.names[place]}: {reason}")
            weight[place] = 0
            skipped.append(f"video {frames.names[place]}: {reason}")
        elif images is not None:
            views = frames.views[place]
            for view in range(crops):
                target = out[place, view].flatten(0, 1)
                transforms.apply(images, views[min(view, len(views) - 1)], target)
    seen = out if frames.views_axis else out[:, 0]
    return dataclasses.replace(batch, frames=seen, weight=weight, skipped=skipped, encoded=None)


def _decode(
    videos: list[list[torch.Tensor]], device: torch.device
) -> list[tuple[torch.Tensor | None, str | None]]:
    """For each video uint8 `[U * T, H, W, 3]` on the device (None if dropped), or what is wrong with it.

    All JPEGs of the batch go to the decoder at once, which is how it is fast; should one of them be bad it
    gives none back, and they go video by video.

    Raises:
        V4DError: the device decodes nothing, whatever it is given.
    """
    try:
        images = iter(_decode_all([jpeg for video in videos for jpeg in video], device))
        return [(_stacked([next(images) for _ in video]), None) for video in videos]
    except RuntimeError as error:
        _check_that_frames_are_at_fault(error, device)
        if len(videos) == 1:
            return [(None, _first_line(error))]
        return [outcome for video in videos for outcome in _decode([video], device)]


def _check_that_frames_are_at_fault(error: RuntimeError, device: torch.device) -> None:
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


def _decode_all(jpegs: list[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    # Imported here: workers do not need it. Deprecated since torchvision 0.29, in favour of torchcodec.
    from torchvision.io import ImageReadMode, decode_jpeg

    if device.type == "cuda":
        # torchvision decodes on its own stream and does not wait for the current one: the memory that it gets
        # may still be read by the crops of the previous batch.
        torch.cuda.current_stream(device).synchronize()
    return decode_jpeg(jpegs, ImageReadMode.RGB, device=device) if jpegs else []


def _stacked(images: list[torch.Tensor]) -> torch.Tensor | None:
    """`[3, H, W]` each -> `[F, H, W, 3]`."""
    return torch.stack(images).permute(0, 2, 3, 1).contiguous() if images else None
