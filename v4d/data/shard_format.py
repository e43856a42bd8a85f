"""The shard format, version 1: the JPEG frames of a part's videos in one LMDB file.

Keys begin with a digit for the kind of record, so that the file is written in ascending order of keys
and a video's frames lie together. Numbers in keys and in binary values are big-endian.

    0                     header, JSON: format, version, size [width, height] or null where videos differ,
                          quality and subsampling of the JPEGs, stride, names of decoder and encoder
    1 <video> <frame>     one frame, baseline JPEG, full-range BT.601. <video> counts videos, <frame> counts
                          stored frames, both uint32: stored frame k is source frame k * stride
    2 <video>             uint32 CRC-32 of every stored frame of the video, in order
    3 <video id>          video, JSON: number, class_index, num_frames (of the source, whatever the stride),
                          fps, width, height (of the frames), source_width, source_height
    4                     end, JSON: videos, frames (stored), bytes (of JPEG)

Behind the last LMDB page follows the seal, 60 bytes: magic `V4DSHARD`, uint32 version, uint32 CRC-32 of the
first 128 KiB (LMDB's meta pages are there), uint64 length of what is before the seal, its SHA-256, and uint32
CRC-32 of the seal itself. LMDB has no checksums, says nothing of an unfinished file, and dies of SIGBUS on a
truncated one; without a right seal a file is never handed to it. Plain LMDB (`subdir=False`) opens a
sealed file as it is.

A shard is written under `.<name>.part` beside its target, sealed, synced and renamed: under its own name
it is whole or not there.
"""

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from v4d.errors import V4DError

FORMAT = "v4d-frames"
VERSION = 1
HEADER_KEY, END_KEY = b"0", b"4"
FRAME_PREFIX, CHECKSUMS_PREFIX, VIDEO_PREFIX = b"1", b"2", b"3"
MAGIC = b"V4DSHARD"
SEAL = struct.Struct(">8sIIQ32s")
SEAL_BYTES = SEAL.size + 4
HEAD_BYTES = 128 * 1024
_BLOCK_BYTES = 1 << 22
_FRAME_KEY = struct.Struct(">II")
_NUMBER = struct.Struct(">I")
Buffer = bytes | memoryview
"""A value as LMDB gives it."""


@dataclass(frozen=True)
class ShardHeader:
    """What holds for every video of a shard."""

    size: tuple[int, int] | None
    """Width and height of every frame; None where videos differ."""
    quality: int
    """Of the JPEGs, 1 to 100."""
    subsampling: str = "4:2:0"
    """Of the JPEGs' chroma."""
    stride: int = 1
    """Every `stride`-th source frame is stored."""
    decoder: str = ""
    """Name and version of what decoded the clips."""
    encoder: str = ""
    """Name and version of what made the JPEGs."""


@dataclass(frozen=True)
class Video:
    """What a shard knows of one video, besides its frames."""

    number: int
    """Its place in the order of writing."""
    class_index: int
    """Of its label."""
    num_frames: int
    """Frames of the source video, whatever the stride."""
    fps: float
    """Frames a second of the source."""
    width: int
    """Of the frames, pixels; as `height`."""
    height: int
    source_width: int
    """Of the source, pixels; as `source_height`."""
    source_height: int


def frame_key(number: int, frame: int) -> bytes:
    """The key of a stored frame, by the number of its video and its own."""
    return FRAME_PREFIX + _FRAME_KEY.pack(number, frame)


def checksums_key(number: int) -> bytes:
    """The key of a video's checksums, by its number."""
    return CHECKSUMS_PREFIX + _NUMBER.pack(number)


def video_key(video_id: str) -> bytes:
    """The key of a video's record."""
    return VIDEO_PREFIX + video_id.encode()


def pack_checksums(checksums: Iterable[int]) -> bytes:
    """CRC-32 of a video's frames, in order."""
    checksums = list(checksums)
    return struct.pack(f">{len(checksums)}I", *checksums)


def unpack_checksums(value: Buffer) -> tuple[int, ...]:
    """The inverse of `pack_checksums`."""
    return struct.unpack(f">{len(value) // 4}I", value)


def stored_count(num_frames: int, stride: int) -> int:
    """Frames a shard holds of a video: source frames 0, stride, 2 * stride, ..."""
    return -(-num_frames // stride)


def pack_header(header: ShardHeader) -> bytes:
    """The header as JSON, with format and version."""
    return pack({"format": FORMAT, "version": VERSION} | asdict(header))


def unpack_header(value: Buffer) -> ShardHeader:
    """The inverse of `pack_header`."""
    fields = unpack(value)
    del fields["format"], fields["version"]
    size = fields.pop("size")
    return ShardHeader(size=tuple(size) if size else None, **fields)


def pack(record: dict[str, Any]) -> bytes:
    """A record as JSON."""
    return json.dumps(record, separators=(",", ":")).encode()


def unpack(value: Buffer) -> dict[str, Any]:
    """The inverse of `pack`."""
    return json.loads(bytes(value))


def seal(path: Path) -> None:
    """Append the seal to a finished LMDB file."""
    with path.open("r+b") as file:
        length, head, digest = _measure(file, path.stat().st_size)
        body = SEAL.pack(MAGIC, VERSION, head, length, digest)
        file.write(body + _NUMBER.pack(zlib.crc32(body)))


def check_seal(path: Path, *, whole: bool = False) -> None:
    """Refuse a file that is no finished shard of this version; `whole` reads and checks every byte.

    Raises:
        V4DError: no such file, empty, truncated or unfinished, of another version, or damaged.
    """
    try:
        with path.open("rb") as file:  # opened once: the shard may be replaced meanwhile
            _check_seal(path, file, whole)
    except OSError as error:
        raise V4DError(f"cannot open shard {path}: {error.strerror}") from error


def _check_seal(path: Path, file: BinaryIO, whole: bool) -> None:
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise V4DError(f"shard {path} is empty")
    file.seek(max(0, size - SEAL_BYTES))
    head, length, digest = _unpack_seal(path, file.read())
    if length != size - SEAL_BYTES:
        raise V4DError(f"shard {path} is damaged: {size - SEAL_BYTES} bytes where {length} were written")
    found_length, found_head, found_digest = _measure(file, length if whole else min(length, HEAD_BYTES))
    if found_head != head:
        raise V4DError(
            f"shard {path} is damaged: its first {HEAD_BYTES // 1024} KiB differ from what was written"
        )
    if whole and (found_digest, found_length) != (digest, length):
        raise V4DError(f"shard {path} is damaged: its SHA-256 differs from what was written")


def _unpack_seal(path: Path, raw: bytes) -> tuple[int, int, bytes]:
    """The checked fields of a seal: CRC-32 of the head, length, SHA-256."""
    body, check = raw[: SEAL.size], raw[SEAL.size :]
    if len(raw) < SEAL_BYTES or body[: len(MAGIC)] != MAGIC:
        raise V4DError(f"shard {path} is truncated or was never finished: it has no seal at its end")
    if _NUMBER.pack(zlib.crc32(body)) != check:
        raise V4DError(f"shard {path} is damaged: its seal is broken")
    _, version, head, length, digest = SEAL.unpack(body)
    if version != VERSION:
        raise V4DError(f"shard {path} has format version {version}; this program reads version {VERSION}")
    return head, length, digest


def _measure(file: BinaryIO, length: int) -> tuple[int, int, bytes]:
    """Bytes from the start (at most `length`), CRC-32 of the first HEAD_BYTES, SHA-256 of all."""
    digest, left, head = hashlib.sha256(), length, None
    file.seek(0)
    while left and (block := file.read(min(left, _BLOCK_BYTES))):
        if head is None:
            head = zlib.crc32(block[:HEAD_BYTES])
        digest.update(block)
        left -= len(block)
    return length - left, head or 0, digest.digest()
