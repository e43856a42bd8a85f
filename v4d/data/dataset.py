"""What a loader's worker does: the videos of a batch from their shards, cropped, as one uint8 tensor."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from v4d.config import CropConfig
from v4d.data import sampling
from v4d.data import transforms as augment
from v4d.data.batch import Batch, EncodedFrames
from v4d.data.batch_sampler import Pick
from v4d.data.sampling import ClipSpec
from v4d.data.shards import BadFrameError, ShardReader, Video, open_store
from v4d.data.transforms import Augmentation
from v4d.data.workers import shared_bytes
from v4d.errors import V4DError

_RUN = 8
"""Frames decoded before they are cropped: 2 MB of 320x256; measured best of 2 to 32."""


@dataclass(frozen=True)
class VideoRecord:
    """A video that can be loaded: a row of the manifest, and the shard that holds its frames."""

    video_id: str
    """As in the manifest."""
    class_index: int
    """Of its label."""
    shard: str
    """Path of the LMDB file."""
    num_frames: int
    """Of the source video."""


@dataclass(frozen=True)
class Failure:
    """A V4DError in a worker as a value: exceptions do not all survive DataLoader's own way."""

    message: str
    """What the error says."""


Plan = tuple[np.ndarray, list[Augmentation]]
"""A video's source frame numbers `[U, T]`, and what to do with them, a view each."""


class VideoTable:
    """Records by column: a quarter of a million objects would cost every worker 0.1 GB and a second.

    Raises:
        V4DError: there are no videos.
    """

    def __init__(self, videos: Sequence[VideoRecord]):
        if not videos:
            raise V4DError("there are no videos to load")
        shards, self.shard = np.unique([v.shard for v in videos], return_inverse=True)
        # Absolute, because workers start in another working directory.
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


@dataclass(eq=False)
class _Samples(Dataset[Any]):
    """Maps the picks of a batch to a `Batch`, or to a `Failure`."""

    videos: VideoTable
    clip: ClipSpec
    views_axis = False  # whether batches keep the axis of views
    bad_frames: str = field(default="raise", kw_only=True)
    decode_on: str = field(default="host", kw_only=True)

    def __post_init__(self) -> None:
        if self.bad_frames not in ("raise", "skip_video"):
            raise ValueError(f"bad_frames is raise or skip_video, not {self.bad_frames!r}")
        if self.decode_on not in ("host", "device"):
            raise ValueError(f"decode_on is host or device, not {self.decode_on!r}")
        self._readers: dict[str, ShardReader] = {}

    def __len__(self) -> int:
        return len(self.videos)

    def __getitems__(self, picks: list[Pick]) -> Batch | Failure:
        """The batch of some picks; DataLoader calls this."""
        try:
            return self._batch(picks)
        except (V4DError, OSError) as error:  # OSError: no memory for a batch where too many files are open
            return Failure(str(error))

    def _batch(self, picks: list[Pick]) -> Batch:
        records = [self.videos[pick.video] for pick in picks]
        plans = [self._plan(pick, record) for pick, record in zip(picks, records, strict=True)]
        _check_sizes([views for _, views in plans])
        encoded: EncodedFrames | None = None
        if self.decode_on == "host":
            frames, bad = self._decoded(records, plans)
        else:
            frames = torch.empty(0, dtype=torch.uint8)
            encoded, bad = self._encoded(records, plans)
        weight = torch.tensor([0.0 if pick.filler else 1.0 for pick in picks])
        weight[list(bad)] = 0
        return Batch(
            frames=frames,
            class_index=torch.tensor([record.class_index for record in records]),
            video_id=["" if p.filler else r.video_id for p, r in zip(picks, records, strict=True)],
            weight=weight,
            skipped=list(bad.values()),
            encoded=encoded,
        )

    def _decoded(self, records: list[VideoRecord], plans: list[Plan]) -> tuple[torch.Tensor, dict[int, str]]:
        """uint8 `[N, (V,) U, T, H, W, 3]`, and what is wrong with a video by its place in the batch."""
        frames = self._empty([views for _, views in plans])
        bad = self._bad(len(plans), lambda n: self._fill(frames[n], records[n], *plans[n]))
        for place in bad:
            frames[place].zero_()
        return frames if self.views_axis else frames[:, 0], bad

    def _encoded(self, records: list[VideoRecord], plans: list[Plan]) -> tuple[EncodedFrames, dict[int, str]]:
        """The same, undecoded."""
        jpegs: list[list[bytes]] = [[] for _ in records]

        def read(place: int) -> None:
            record, (indices, _) = records[place], plans[place]
            jpegs[place] = self._reader(record).jpegs(record.video_id, indices.reshape(-1))

        bad = self._bad(len(plans), read)
        data = np.frombuffer(bytearray().join(jpeg for video in jpegs for jpeg in video), dtype=np.uint8)
        frames = EncodedFrames(
            data=torch.from_numpy(data),
            lengths=[list(map(len, video)) for video in jpegs],
            views=[views for _, views in plans],
            grid=(self.clip.units, self.clip.frames),
            views_axis=self.views_axis,
            names=[record.video_id for record in records],
            skip_bad=self.bad_frames == "skip_video",
        )
        return frames, bad

    def _bad(self, count: int, load: Callable[[int], None]) -> dict[int, str]:
        """Load each place of a batch; the line for `Batch.skipped` of those with bad frames.

        Raises:
            BadFrameError: where nothing may be skipped.
        """
        bad = {}
        for place in range(count):
            try:
                load(place)
            except BadFrameError as error:
                if self.bad_frames == "raise":
                    raise
                bad[place] = str(error)
        return bad

    def _plan(self, pick: Pick, record: VideoRecord) -> Plan:
        raise NotImplementedError

    def _empty(self, views: list[list[Augmentation]]) -> torch.Tensor:
        """Room for the batch, in shared memory in a worker: filled in place, it is not copied once more."""
        size, crops = views[0][0].size, max(map(len, views))
        shape = (len(views), crops, self.clip.units, self.clip.frames, size, size, 3)
        if torch.utils.data.get_worker_info():
            return shared_bytes(shape)
        return torch.from_numpy(np.empty(shape, dtype=np.uint8))  # numpy asks for huge pages

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

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_readers": {}}


def _check_sizes(plans: list[list[Augmentation]]) -> None:
    sizes = {augmentation.size for views in plans for augmentation in views}
    if len(sizes) > 1:
        raise V4DError(f"frames of one batch have short sides of {sorted(sizes)}: set testing.crop_size")


@dataclass(eq=False)
class TrainSamples(_Samples):
    """Random units and augmentation, drawn from (seed, epoch, video id) and nothing else."""

    crop: CropConfig
    seed: int
    snap: bool = True

    def _plan(self, pick: Pick, record: VideoRecord) -> Plan:
        generator = np.random.default_rng([self.seed, pick.epoch, *record.video_id.encode()])
        video, clip = self._video(record), self.clip
        indices = sampling.train_indices(video.num_frames, clip.units, clip.frames, clip.stride, generator)
        return indices, [augment.pick(self.crop, video.height, video.width, generator, snap=self.snap)]


@dataclass(frozen=True)
class ViewSpec:
    """How a video is shown in a test: crops and units that are the same every time."""

    crop_size: int | None
    """Side of the square crop, pixels; None for the frame's short side."""
    crops: int = 1
    """Crops of a frame, spread over its longer side; 1 where the frame has no room for more."""
    short_side: int | None = None
    """Frames are scaled to this short side first, pixels; None leaves them."""
    sampling: str = "released"
    """Where units lie: `released` or `centred`, see `v4d.data.sampling.eval_indices`."""
    axis: bool = True
    """Whether batches have an axis of views; without it there is one crop."""

    def __post_init__(self) -> None:
        if self.sampling not in ("released", "centred"):
            raise ValueError(f"sampling is released or centred, not {self.sampling!r}")
        if not self.axis and self.crops != 1:
            raise ValueError(f"{self.crops} crops need an axis of views")


@dataclass(eq=False)
class EvalSamples(_Samples):
    """Fixed units and crops."""

    views: ViewSpec

    def __post_init__(self) -> None:
        super().__post_init__()
        self.views_axis = self.views.axis

    def _plan(self, pick: Pick, record: VideoRecord) -> Plan:
        video, clip, views = self._video(record), self.clip, self.views
        height, width, centred = video.height, video.width, views.sampling == "centred"
        indices = sampling.eval_indices(
            video.num_frames, clip.units, clip.frames, clip.stride, centred=centred
        )
        boxes = augment.spread_crops(height, width, views.crop_size, views.crops, views.short_side)
        size = views.crop_size or views.short_side or min(height, width)
        return indices, [Augmentation(box, size) for box in boxes]
