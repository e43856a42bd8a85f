"""Reading a shard: frames of a video as one array, decoded straight from the map.

The format is described in `v4d.data.shard_format`. Whoever reads frames opens them with `open_store`.
"""

import functools
import os
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import lmdb
import numpy as np
import simplejpeg

from v4d.data import shard_format as fmt
from v4d.data.shard_format import ShardHeader, Video
from v4d.data.shard_writer import ShardWriter
from v4d.errors import V4DError
from v4d.utils.processes import raise_file_limit

__all__ = ["BadFrameError", "ShardHeader", "ShardReader", "ShardWriter", "Video", "open_store"]

READ_THREADS = 8
SPARE_FILES = 256
"""Open files that maps leave to the rest of the process; a loader's batches are sent in some."""
COLD_SECONDS = 150e-6
"""A frame that takes longer to fetch was not in the page cache; one that was takes a tenth of it."""


class BadFrameError(V4DError):
    """A frame of a shard is missing or is no JPEG of the right size."""

    def __init__(self, path: Path, video_id: str, frame: int, reason: str):
        super().__init__(f"shard {path}: video {video_id}, source frame {frame}: {reason}")
        self.path, self.video_id, self.frame, self.reason = path, video_id, frame, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.video_id, self.frame, self.reason)


class _Found(NamedTuple):
    """Distinct frames in the map, still compressed."""

    video_id: str
    """Their video."""
    shape: tuple[int, int, int]
    """Height, width and 3."""
    frames: list[int]
    """Source frame numbers."""
    jpegs: list[fmt.Buffer]
    """In the order of `frames`."""
    first: list[int]
    """The first place of each in the indices asked for, ascending."""
    repeats: list[tuple[int, int]]
    """Further places: (place, first place of the same frame)."""
    shard: "_Map"
    """Held open, since the frames are in its memory."""


class ShardReader:
    """A finished shard. It is opened at the first use, once per process; it pickles as its path.

    Raises:
        V4DError: the file is missing, empty, truncated, unfinished or of another format version.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        fmt.check_seal(self.path)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)

    def check_bytes(self) -> None:
        """Read the whole file and hold it against its checksum.

        Raises:
            V4DError: a byte of it has changed.
        """
        fmt.check_seal(self.path, whole=True)

    @property
    def header(self) -> ShardHeader:
        """How its frames were made.

        Raises:
            V4DError: the file is damaged.
        """
        return self._map.header

    @property
    def video_ids(self) -> list[str]:
        """Ids of all videos, in the order in which they were written."""
        numbers = {name: video.number for name, video in self.videos()}
        return sorted(numbers, key=numbers.__getitem__)

    def videos(self) -> Iterator[tuple[str, Video]]:
        """Every video's id and record, by id."""
        cursor = self._map.transaction().cursor()
        found = cursor.set_range(fmt.VIDEO_PREFIX)
        while found and bytes(cursor.key()[:1]) == fmt.VIDEO_PREFIX:
            yield bytes(cursor.key()[1:]).decode(), Video(**fmt.unpack(cursor.value()))
            found = cursor.next()

    def counts(self) -> dict[str, int]:
        """The closing record: `videos`, stored `frames`, `bytes` of JPEG."""
        shard = self._map
        value = shard.get(fmt.END_KEY)
        if value is None:
            raise V4DError(f"shard {self.path} is damaged: it has no closing record")
        return fmt.unpack(value)

    def video(self, video_id: str) -> Video:
        """What the shard knows of a video; V4DError where it has none of that id."""
        shard = self._map
        value = shard.get(fmt.video_key(video_id))
        if value is None:
            raise V4DError(f"shard {self.path} has no video {video_id}")
        try:
            return Video(**fmt.unpack(value))
        except (ValueError, TypeError) as error:
            record = f"its record of video {video_id}"
            raise V4DError(f"shard {self.path} is damaged: {record}: {error}") from error

    def num_frames(self, video_id: str) -> int:
        """Frames of the source video, whatever the shard's stride."""
        return self.video(video_id).num_frames

    def checksums(self, video_id: str) -> tuple[int, ...]:
        """CRC-32 of every stored frame of a video."""
        shard = self._map
        return fmt.unpack_checksums(shard.get(fmt.checksums_key(self.video(video_id).number)) or b"")

    def frames(self, video_id: str, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Decode frames, each distinct one once.

        Args:
            indices: source frame numbers in any order; where the shard's stride skips a frame, the stored
                one before it stands for it.

        Returns:
            uint8 `[len(indices), H, W, 3]`, RGB.

        Raises:
            V4DError: no such video.
            IndexError: an index outside `[0, num_frames)`.
            BadFrameError: a frame is missing or broken.
        """
        found = self._find(video_id, indices)
        images = np.empty((len(indices), *found.shape), dtype=np.uint8)
        self._decode(found, range(len(found.jpegs)), [images[place] for place in found.first])
        for place, source in found.repeats:
            images[place] = images[source]
        return images

    def runs(
        self, video_id: str, indices: Sequence[int] | np.ndarray, count: int
    ) -> tuple[Iterator[tuple[int, np.ndarray]], list[tuple[int, int]]]:
        """Like `frames`, at most `count` distinct frames at a time.

        A few frames stay in the processor's cache until they are cropped; thirty-two would not.

        Returns:
            Runs of frames whose places in `indices` follow one another: the first place, and uint8
            `[n, H, W, 3]`, overwritten by the next run. And the places that repeat a frame: (place, the place
            that has it).
        """
        found = self._find(video_id, indices)
        return self._decoded_runs(found, count), found.repeats

    def _decoded_runs(self, found: "_Found", count: int) -> Iterator[tuple[int, np.ndarray]]:
        scratch = np.empty((count, *found.shape), dtype=np.uint8)
        images = list(scratch)
        for numbers in _runs(found.first, count):
            self._decode(found, numbers, images)
            yield found.first[numbers.start], scratch[: len(numbers)]

    def jpegs(self, video_id: str, indices: Sequence[int] | np.ndarray) -> list[bytes]:
        """The undecoded frames, one for each index."""
        found = self._find(video_id, indices)
        place_of = dict(zip(found.first, map(bytes, found.jpegs), strict=True))
        sources = dict(found.repeats)
        return [place_of[sources.get(place, place)] for place in range(len(indices))]

    def _find(self, video_id: str, indices: Sequence[int] | np.ndarray) -> "_Found":
        """The distinct stored frames that `indices` ask for."""
        video, shard = self.video(video_id), self._map
        stride = shard.header.stride
        first: dict[int, int] = {}
        repeats = []
        for place, index in enumerate(np.asarray(indices).tolist()):
            if not 0 <= index < video.num_frames:
                raise IndexError(f"frame {index} of video {video_id}, which has {video.num_frames}")
            source = first.setdefault(index // stride, place)
            if source != place:
                repeats.append((place, source))
        values = shard.values([fmt.frame_key(video.number, stored) for stored in first])
        frames = [stored * stride for stored in first]
        jpegs = [value for value in values if value is not None]
        if len(jpegs) < len(values):
            raise BadFrameError(self.path, video_id, frames[values.index(None)], "it is missing")
        shape = (video.height, video.width, 3)
        return _Found(video_id, shape, frames, jpegs, list(first.values()), repeats, shard)

    def _decode(self, found: "_Found", numbers: range, images: list[np.ndarray]) -> None:
        """Decode some of the frames found into arrays; the tightest loop of all."""
        number = numbers.start
        try:
            for number, image in zip(numbers, images):  # noqa: B905  (there may be more room than frames)
                if simplejpeg.decode_jpeg(found.jpegs[number], buffer=image).shape != found.shape:
                    raise ValueError(f"it is not {found.shape[1]}x{found.shape[0]} pixels")
        except ValueError as error:
            raise BadFrameError(self.path, found.video_id, found.frames[number], str(error)) from error

    @functools.cached_property
    def _map(self) -> "_Map":
        """To be held while its memory is read: for want of open files it may be dropped here, and closed."""
        shard = _shared_map(self.path)
        shard.readers.add(self)
        return shard


STORES = {".lmdb": ShardReader}
"""How the frames of a part can be stored, by the file's ending; another storage has the reader's methods."""


def open_store(path: str | Path) -> ShardReader:
    """The stored frames of a part.

    Raises:
        V4DError: no such file, a damaged one, or an ending that no storage has.
    """
    store = STORES.get(Path(path).suffix)
    if store is None:
        raise V4DError(f"cannot open {path}: frames are stored in files named {', '.join(STORES)}")
    return store(path)


class _Map:
    """One LMDB environment and its header; a read transaction a thread.

    Read-only and without LMDB's lock file it is memory and nothing else, so a forked child goes on using
    its parent's (py-lmdb would refuse to open the path again).
    """

    def __init__(self, path: Path):
        fmt.check_seal(path)
        try:
            # Read-ahead fetches 8 times what is needed when frames are picked here and there.
            self.env = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False)
        except lmdb.Error as error:
            raise V4DError(f"cannot open shard {path}: {error}") from error
        self.path, self._local = path, threading.local()
        self.readers: weakref.WeakSet[ShardReader] = weakref.WeakSet()
        header = self.get(fmt.HEADER_KEY)
        if header is None:
            raise V4DError(f"shard {path} is damaged: it has no header")
        self.header = fmt.unpack_header(header)

    def transaction(self) -> lmdb.Transaction:
        """This thread's read transaction; a finished file never changes, so it is kept."""
        if not hasattr(self._local, "transaction"):
            self._local.transaction = self.env.begin(buffers=True)
        return self._local.transaction

    def get(self, key: bytes) -> fmt.Buffer | None:
        """The value of a key; None where it has none."""
        try:
            return self.transaction().get(key)
        except lmdb.Error as error:
            raise V4DError(f"shard {self.path} is damaged: {error}") from error

    def values(self, keys: list[bytes]) -> list[fmt.Buffer | None]:
        """Values in order. Once one was not in memory, the rest are fetched by several threads."""
        get, clock = self.get, time.perf_counter
        values = []
        for key in keys:
            start = clock()
            values.append(get(key))
            if clock() - start > COLD_SECONDS:
                return values + list(_readers().map(self.get, keys[len(values) :]))
        return values


_maps: "weakref.WeakValueDictionary[tuple[int, int], _Map]" = weakref.WeakValueDictionary()
_maps_lock = threading.Lock()


def _runs(places: list[int], count: int) -> Iterator[range]:
    """Cut ascending places into ranges of neighbours, at most `count` long."""
    start = 0
    for end in range(1, len(places) + 1):
        if end == len(places) or end - start == count or places[end] != places[end - 1] + 1:
            yield range(start, end)
            start = end


def _shared_map(path: Path) -> _Map:
    """The process's one map of a file; a shard that was written anew is another file."""
    with _maps_lock:
        while True:
            key = _identity(path)
            shard = _maps.get(key)
            if shard is None:
                _close_oldest(max(1, raise_file_limit() - SPARE_FILES))
                shard = _Map(path)
                if _identity(path) != key:  # the file was replaced while it was opened
                    continue
                _maps[key] = shard
            return shard


def _close_oldest(most: int) -> None:
    """Close half of the maps, the oldest, where there are `most`; those in use close when they are not.

    Their readers open them again when they need them.
    """
    if len(_maps) >= most:
        for shard in list(_maps.values())[: (most + 1) // 2]:
            for reader in list(shard.readers):
                reader.__dict__.pop("_map", None)


def _identity(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise V4DError(f"cannot open shard {path}: {error.strerror}") from error
    return status.st_dev, status.st_ino


@functools.cache
def _readers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(READ_THREADS, thread_name_prefix="v4d-read")


def _after_fork() -> None:
    """Threads and held locks do not come along into a child."""
    global _maps_lock
    _maps_lock = threading.Lock()
    _readers.cache_clear()


os.register_at_fork(after_in_child=_after_fork)
