"""What a loader's worker does: the videos of a batch from their shards, cropped, as one uint8 tensor."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from v4d.config import CropConfig
from v4d.data import sampling
from v4d.data import transforms as augment
from v4d.data.batch import Batch, EncodedFrames
from v4d.data.batch_sampler import Pick
from v4d.data.shards import BadFrameError, ShardReader, Video, open_store
from v4d.data.transforms import Augmentation
from v4d.errors import V4DError

_RUN = 8
"""Frames decoded before they are cropped: 2 MB of 320x256; measured best of 2 to 32."""


@dataclass(frozen=True)
class VideoRecord:
    """A video that can be loaded: a row of the manifest, and the shard that holds its frames."""

    video_id: str
    class_index: int
    shard: str
    num_frames: int


@dataclass(frozen=True)
class Failure:
    """An error on its way out of a worker; exceptions do not all survive DataLoader's own way."""

    message: str


Plan = tuple[np.ndarray, list[Augmentation]]
"""A video's source frame numbers `[U, T]`, and what to do with them, a view each."""


class VideoTable:
    """Records by column: a quarter of a million objects would cost every worker 0.1 GB and a second."""

    def __init__(self, videos: Sequence[VideoRecord]):
        shards, self.shard = np.unique([v.shard for v in videos], return_inverse=True)
        # Absolute, for workers start in a folder of their own.
        self.shards = [str(Path(shard).absolute()) for shard in shards]
        self.class_index = np.array([v.class_index for v in videos], dtype=np.int64)
        self.num_frames = np.array([v.num_frames for v in videos], dtype=np.int32)
        self._ids = np.array([v.video_id.encode() for v in videos])

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> VideoRecord:
        shard = self.shards[self.shard[index]]
        return VideoRecord(
            self._ids[index].decode(), int(self.class_index[index]), shard, int(self.num_frames[index])
        )


class _Samples(Dataset):
    """Maps the picks of a batch to a `Batch`, or to a `Failure`."""

    views_axis = False
    """Whether batches keep the axis of views."""

    def __init__(
        self,
        videos: VideoTable,
        units: int,
        frames: int,
        frame_stride: int,
        bad_frames: str,
        decode_on: str = "host",
    ):
        if bad_frames not in ("raise", "skip_video"):
            raise ValueError(f"bad_frames is raise or skip_video, not {bad_frames!r}")
        if decode_on not in ("host", "device"):
            raise ValueError(f"decode_on is host or device, not {decode_on!r}")
        self.videos = videos
        self.units, self.frames, self.frame_stride = units, frames, frame_stride
        self.bad_frames, self.decode_on = bad_frames, decode_on
        self._readers: dict[str, ShardReader] = {}

    def __len__(self) -> int:
        return len(self.videos)

    def __getitems__(self, picks: list[Pick]) -> Batch | Failure:
        try:
            return self._batch(picks)
        except V4DError as error:
            return Failure(str(error))

    def _batch(self, picks: list[Pick]) -> Batch:
        records = [self.videos[pick.index] for pick in picks]
        plans = [self._plan(pick, record) for pick, record in zip(picks, records, strict=True)]
        _check_sizes([views for _, views in plans])
        build = self._decoded if self.decode_on == "host" else self._encoded
        frames, bad = build(records, plans)
        weight = torch.tensor([0.0 if pick.filler else 1.0 for pick in picks])
        weight[list(bad)] = 0
        return Batch(
            frames=frames,
            class_index=torch.tensor([record.class_index for record in records]),
            video_id=["" if p.filler else r.video_id for p, r in zip(picks, records, strict=True)],
            weight=weight,
            skipped=list(bad.values()),
        )

    def _decoded(self, records: list[VideoRecord], plans: list[Plan]) -> tuple[torch.Tensor, dict[int, str]]:
        """uint8 `[N, (V,) U, T, H, W, 3]`, and what is wrong with a video by its place in the batch."""
        frames = self._empty([views for _, views in plans])
        bad: dict[int, str] = {}
        for place, (record, (indices, views)) in enumerate(zip(records, plans, strict=True)):
            try:
                self._fill(frames[place], record, indices, views)
            except BadFrameError as error:
                bad[place] = self._dropped(error)
                frames[place].zero_()
        return frames if self.views_axis else frames[:, 0], bad

    def _encoded(self, records: list[VideoRecord], plans: list[Plan]) -> tuple[EncodedFrames, dict[int, str]]:
        """The same, undecoded."""
        jpegs: list[list[bytes]] = []
        bad: dict[int, str] = {}
        for place, (record, (indices, _)) in enumerate(zip(records, plans, strict=True)):
            try:
                jpegs.append(self._reader(record).jpegs(record.video_id, indices.reshape(-1)))
            except BadFrameError as error:
                bad[place] = self._dropped(error)
                jpegs.append([])
        data = np.frombuffer(bytearray().join(jpeg for video in jpegs for jpeg in video), dtype=np.uint8)
        frames = EncodedFrames(
            data=torch.from_numpy(data),
            lengths=[list(map(len, video)) for video in jpegs],
            views=[views for _, views in plans],
            grid=(self.units, self.frames),
            views_axis=self.views_axis,
            names=[record.video_id for record in records],
            skip_bad=self.bad_frames == "skip_video",
        )
        return frames, bad

    def _dropped(self, error: BadFrameError) -> str:
        """The line for `Batch.skipped`; where nothing may be skipped, the error goes on."""
        if self.bad_frames == "raise":
            raise error
        return str(error)

    def _plan(self, pick: Pick, record: VideoRecord) -> Plan:
        raise NotImplementedError

    def _empty(self, views: list[list[Augmentation]]) -> torch.Tensor:
        """Room for the batch, in shared memory in a worker: filled in place, it is not copied once more."""
        size, crops = views[0][0].size, max(map(len, views))
        shape = (len(views), crops, self.units, self.frames, size, size, 3)
        if torch.utils.data.get_worker_info():
            return torch.empty(shape, dtype=torch.uint8).share_memory_()
        return torch.from_numpy(np.empty(shape, dtype=np.uint8))  # numpy asks for huge pages, torch does not

    def _fill(
        self, out: torch.Tensor, record: VideoRecord, indices: np.ndarray, views: list[Augmentation]
    ) -> None:
        """Write a video's `[V, U, T, H, W, 3]`; a frame without room has one view, which stands for all."""
        flat = out.view(len(out), -1, *out.shape[-3:])  # [V, U*T, H, W, 3]
        runs, repeats = self._reader(record).runs(record.video_id, indices.reshape(-1), _RUN)
        for first, images in runs:
            frames = torch.from_numpy(images)
            for view, target in enumerate(flat):
                augmentation = views[min(view, len(views) - 1)]
                augment.apply(frames, augmentation, target[first : first + len(frames)])
        for place, source in repeats:
            flat[:, place] = flat[:, source]

    def _video(self, record: VideoRecord) -> Video:
        """The shard's own record of a video, which must agree with the manifest's."""
        video = self._reader(record).video(record.video_id)
        if video.num_frames != record.num_frames:
            raise V4DError(
                f"video {record.video_id} has {video.num_frames} frames in {record.shard}, but "
                f"{record.num_frames} in the manifest: make the manifest anew"
            )
        return video

    def _reader(self, record: VideoRecord) -> ShardReader:
        if record.shard not in self._readers:
            self._readers[record.shard] = open_store(record.shard)
        return self._readers[record.shard]

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_readers": {}}


def _check_sizes(plans: list[list[Augmentation]]) -> None:
    sizes = {augmentation.size for views in plans for augmentation in views}
    if len(sizes) > 1:
        raise V4DError(f"frames of one batch have short sides of {sorted(sizes)}: set testing.crop_size")


class TrainSamples(_Samples):
    """Random units and augmentation, drawn from (seed, epoch, video id) and nothing else."""

    def __init__(self, videos: VideoTable, crop: CropConfig, seed: int, **shape):
        super().__init__(videos, **shape)
        self.crop, self.seed = crop, seed

    def _plan(self, pick: Pick, record: VideoRecord) -> Plan:
        generator = np.random.default_rng([self.seed, pick.epoch, *record.video_id.encode()])
        video = self._video(record)
        indices = sampling.train_indices(
            video.num_frames, self.units, self.frames, self.frame_stride, generator
        )
        return indices, [augment.pick(self.crop, video.height, video.width, generator)]


class EvalSamples(_Samples):
    """Fixed units and crops."""

    def __init__(
        self,
        videos: VideoTable,
        *,
        crop_size: int | None,
        crops: int,
        short_side: int | None,
        centred: bool,
        views_axis: bool,
        **shape,
    ):
        super().__init__(videos, **shape)
        self.crop_size, self.crops, self.short_side = crop_size, crops, short_side
        self.centred, self.views_axis = centred, views_axis

    def _plan(self, pick: Pick, record: VideoRecord) -> Plan:
        video = self._video(record)
        indices = sampling.eval_indices(
            video.num_frames, self.units, self.frames, self.frame_stride, centred=self.centred
        )
        boxes = augment.spread_crops(video.height, video.width, self.crop_size, self.crops, self.short_side)
        size = self.crop_size or self.short_side or min(video.height, video.width)
        return indices, [Augmentation(box, size) for box in boxes]
