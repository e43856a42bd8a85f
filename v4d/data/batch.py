"""A batch of videos, on the host and on its way to the device.

Letters: N videos, V views (crops), U units, T frames, H, W, C. Frames stay uint8 and channels-last until they
are on the device: four times less to copy, and normalising there costs nothing that a host could pay for.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass
class Batch:
    """Videos of one step of one rank."""

    frames: torch.Tensor
    """uint8 `[N, U, T, H, W, 3]`, or `[N, V, U, T, H, W, 3]` with views.

    Where the device decodes (`v4d.data.encoded`) it holds compressed frames until the batch is there."""
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

    def __len__(self) -> int:
        return len(self.video_id)

    def pin_memory(self) -> "Batch":
        """The same in page-locked memory, from which a device copies by itself (DataLoader calls this)."""
        return self._mapped(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device | str) -> "Batch":
        if isinstance(self.frames, torch.Tensor):
            return self._mapped(lambda tensor: tensor.to(device, non_blocking=True))
        from v4d.data.encoded import decoded

        return decoded(self, device)

    def _mapped(self, change) -> "Batch":
        tensors = {name: change(getattr(self, name)) for name in ("frames", "class_index", "weight")}
        return dataclasses.replace(self, **tensors)


def to_device(batch: Batch, device: torch.device | str) -> Batch:
    """Copy a batch; from pinned memory the copy runs beside the host's work."""
    return batch.to(device)


def prefetch(batches: Iterable[Batch], device: torch.device | str) -> Iterator[Batch]:
    """Batches on the device; on CUDA the next one is copied on a stream of its own while this one is used."""
    device = torch.device(device)
    if device.type != "cuda":
        for batch in batches:
            yield to_device(batch, device)
        return
    stream = torch.cuda.Stream(device)
    ready = None
    for batch in batches:
        with torch.cuda.stream(stream):
            coming = to_device(batch, device)
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


def normalise(frames: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """ImageNet mean and deviation, and the network's order of dimensions.

    Args:
        frames: uint8 `[..., U, T, H, W, 3]` on the device that computes.

    Returns:
        `[..., U, 3, T, H, W]` of that type, computed in float32: a permuted view of channels-last memory.
    """
    mean = torch.tensor(IMAGENET_MEAN, device=frames.device)
    scale = 1 / torch.tensor(IMAGENET_STD, device=frames.device)
    normal = torch.addcmul(-mean * scale, frames.float(), scale / 255)
    return normal.to(dtype).movedim(-1, -4)
