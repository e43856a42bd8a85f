"""Writing a shard: videos in, one sealed file out, or nothing."""

import errno
import os
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import lmdb

from v4d.data import shard_format as fmt
from v4d.data.shard_format import ShardHeader, Video
from v4d.errors import V4DError
from v4d.utils.files import free_bytes, lock, open_lock_file, sync_file, sync_folder

_FIRST_MAP_BYTES = 1 << 26


class ShardWriter:
    """Writes `path` when its `with` block ends well; when it does not, `path` stays as it was.

        with ShardWriter(path, ShardHeader(size=(320, 256), quality=90)) as writer:
            writer.add("some_id", jpegs, class_index=3, num_frames=300, fps=30.0, size=(320, 256),
                       source_size=(340, 256))

    Raises:
        V4DError: another process is writing this shard, or the disk is full.
    """

    def __init__(self, path: str | Path, header: ShardHeader):
        self.path = Path(path)
        self.header = header
        self.temporary = self.path.with_name(f".{self.path.name}.part")
        self._videos: dict[str, Video] = {}
        self._checksums: list[bytes] = []
        self._frames = self._bytes = 0
        self._lock = _lock_temporary(self.temporary, self.path)
        try:
            self._env = self._open()
            self._put([(fmt.HEADER_KEY, fmt.pack_header(header))])
        except BaseException:
            self._discard()
            raise

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._discard()

    def add(
        self,
        video_id: str,
        jpegs: Sequence[bytes],
        *,
        class_index: int,
        num_frames: int,
        fps: float,
        size: tuple[int, int],
        source_size: tuple[int, int],
    ) -> None:
        """Append a video, in one transaction.

        Args:
            jpegs: source frames 0, stride, 2 * stride, ...
            num_frames: frames of the source.
            size, source_size: width and height of the frames, and of the source.

        Raises:
            ValueError: the number or size of the frames contradicts the header.
            V4DError: the video is there already, or the disk is full.
        """
        if video_id in self._videos:
            raise V4DError(f"{self.path}: video {video_id} comes twice")
        if num_frames < 1 or len(jpegs) != fmt.stored_count(num_frames, self.header.stride):
            raise ValueError(f"{len(jpegs)} frames for {num_frames} at stride {self.header.stride}")
        if self.header.size not in (None, tuple(size)):
            raise ValueError(f"frames of {size} in a shard of {self.header.size}")
        number = len(self._videos)
        self._put([(fmt.frame_key(number, i), jpeg) for i, jpeg in enumerate(jpegs)])
        self._videos[video_id] = Video(number, class_index, num_frames, fps, *size, *source_size)
        self._checksums.append(fmt.pack_checksums(map(zlib.crc32, jpegs)))
        self._frames += len(jpegs)
        self._bytes += sum(map(len, jpegs))

    def _open(self) -> lmdb.Environment:
        try:
            # No sync at each commit: a temporary file is discarded after a crash.
            return lmdb.open(
                str(self.temporary), subdir=False, lock=False, sync=False, map_size=_FIRST_MAP_BYTES
            )
        except lmdb.Error as error:
            raise V4DError(f"cannot write {self.path}: {error}") from error

    def _finish(self) -> None:
        checksums = [(fmt.checksums_key(n), value) for n, value in enumerate(self._checksums)]
        videos = sorted((fmt.video_key(name), fmt.pack(asdict(v))) for name, v in self._videos.items())
        counts = {"videos": len(videos), "frames": self._frames, "bytes": self._bytes}
        self._put([*checksums, *videos, (fmt.END_KEY, fmt.pack(counts))])
        try:
            self._env.close()
            fmt.seal(self.temporary)
            sync_file(self.temporary)
            self.temporary.replace(self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            raise V4DError(f"cannot write {self.path}: {error.strerror}") from error

    def _put(self, records: Sequence[tuple[bytes, bytes]]) -> None:
        """Append records (ascending keys) in one transaction; a full map grows and takes it again."""
        while True:
            try:
                with self._env.begin(write=True) as transaction:
                    for key, value in records:
                        # `put` returns False for a key that is out of order.
                        if not transaction.put(key, value, append=True, overwrite=False):
                            raise RuntimeError(f"{self.path}: key {key!r} is out of order")
                return
            except lmdb.MapFullError:
                self._env.set_mapsize(2 * self._env.info()["map_size"])
            except lmdb.Error as error:
                # LMDB calls a write that was cut short an input/output error.
                full = free_bytes(self.path) < 4 * sum(len(value) for _, value in records) + (1 << 20)
                why = os.strerror(errno.ENOSPC) if full and "Input/output" in str(error) else error
                raise V4DError(f"cannot write {self.path}: {why}") from error

    def _discard(self) -> None:
        """Close everything; what was not renamed is removed."""
        if hasattr(self, "_env"):
            self._env.close()
        if self._lock >= 0:
            # The lock protects the name, unless the file was already renamed to the target.
            if _same_file(self._lock, self.temporary):
                self.temporary.unlink()
            os.close(self._lock)
            self._lock = -1


def _lock_temporary(temporary: Path, target: Path) -> int:
    """Create the temporary file, locked and empty; what a killed writer left there is cleared.

    The lock is on the file itself.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = open_lock_file(temporary)
            if not lock(descriptor, wait=False):
                os.close(descriptor)
                raise V4DError(f"another process is writing {target}")
            if _same_file(descriptor, temporary):  # else another writer renamed it in between: try again
                os.ftruncate(descriptor, 0)
                return descriptor
            os.close(descriptor)
    except OSError as error:
        raise V4DError(f"cannot write {target}: {error.strerror}") from error


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
