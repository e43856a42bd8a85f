"""Archives of videos, read as a stream: members one after the other, nothing unpacked to disk.

What is gzip and what is plain tar is told by content (files named .tar.gz have been plain). Only regular
files count, by the last part of their path; a member whose path climbs out, a link or a device is refused.
An archive that ends early or is damaged raises: it never just looks shorter.
"""

import functools
import gzip
import io
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from v4d.datasets.tar import TarDamage, TarMember, tar_members
from v4d.errors import V4DError
from v4d.utils.files import atomic_path
from v4d.utils.videos import DATASET_SUFFIXES

_TIMES = re.compile(r"_([0-9]{6})_([0-9]{6})\Z")
_DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, TarDamage)
_CHUNK = 1 << 20
_LONGEST_NAME = 255
"""Bytes; no file system has longer ones."""


class ArchiveError(V4DError):
    """An archive is damaged, cut short, or no archive."""


@dataclass(frozen=True)
class Member:
    """A video in an archive. `refused` says why it may not be used ("" if it may)."""

    video_id: str
    size: int
    """Bytes."""
    read: Callable[[], bytes]
    """Its content, until the next member is asked for."""
    refused: str = ""


Wanted = Callable[[str, tuple[int, int] | None], bool]
"""Whether the video with this id and span (seconds; None where the name has none) is to be read."""


def add_member(archive: tarfile.TarFile, name: str, content: bytes | IO[bytes]) -> None:
    """Append a file to an archive, without time or owner: the same files make the same archive."""
    file = io.BytesIO(content) if isinstance(content, bytes) else content
    info = tarfile.TarInfo(name)
    info.size = file.seek(0, io.SEEK_END)
    file.seek(0)
    archive.addfile(info, file)


@contextmanager
def new_archive(path: Path, compresslevel: int) -> Iterator[tarfile.TarFile]:
    """A gzip-compressed archive to be filled; it appears whole or not at all.

    gzip's header has no name and no time: the same members make the same bytes.
    """
    with (
        atomic_path(path) as temporary,
        temporary.open("wb") as file,
        gzip.GzipFile("", "wb", compresslevel, file, mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w") as archive,
    ):
        yield archive


def parse_name(name: str) -> tuple[str, tuple[int, int] | None]:
    """Id and span in a member's name.

    `a/b/-x_y_000012_000022.mp4` -> `-x_y`, (12, 22); `left_0001.mp4` -> `left_0001`, None.
    """
    stem = _last_part(name).stem
    match = _TIMES.search(stem)
    if match is None:
        return stem, None
    return stem[: match.start()], (int(match[1]), int(match[2]))


def read_members(path: Path, wanted: Wanted) -> Iterator[Member]:
    """Yield the wanted videos of an archive in its order; others are passed over.

    Raises:
        ArchiveError: the archive is not there, is damaged or ends early; members before that
            may have come out already, so the caller must throw away what it made of them.
    """
    with _open_tar(path) as members:
        for member in members:
            video_id, span = parse_name(member.name)
            if wanted(video_id, span):
                read = functools.partial(_content, member, path)
                yield Member(video_id, member.size, read, _refusal(member))


def check_archive(path: Path) -> int:
    """Read an archive to its end; the number of videos in it.

    Raises:
        ArchiveError: it is damaged, ends early, or holds no video.
    """
    with _open_tar(path) as members:
        count = sum(1 for _ in members)
    if count == 0:
        raise ArchiveError(f"{path} holds no videos")
    return count


def _last_part(name: str) -> PurePosixPath:
    """A member's name without its folders, of which a hostile one has a hundred thousand."""
    return PurePosixPath(name.replace("\\", "/").rstrip("/").rpartition("/")[2])


def _looks_like_video(member: TarMember) -> bool:
    path = _last_part(member.name)
    if member.odd == "a folder" or len(os.fsencode(path)) > _LONGEST_NAME:
        return False
    # `._x.mp4` holds macOS's attributes of x.mp4
    return not path.name.startswith("._") and path.suffix.lower() in DATASET_SUFFIXES


def _refusal(member: TarMember) -> str:
    """Why a member may not be used, or ""."""
    folders = member.name.replace("\\", "/").split("/")
    if folders[0] == "" or ".." in folders:
        # Quoted: it may hold what is no text.
        return f"the member's path leaves its folder: {member.name[:200]!r}"
    return f"the member is no regular file but {member.odd}" if member.odd else ""


@contextmanager
def _open_tar(path: Path) -> Iterator[Iterator[TarMember]]:
    """The videos of an archive, for one pass; at the end of the block make sure that it was whole."""
    with _explained(path), path.open("rb") as raw:
        head = raw.read(2)
        raw.seek(0)
        stream: Any = gzip.GzipFile(fileobj=raw) if head == b"\x1f\x8b" else raw
        # Inside gzip, whose checksum says that nothing is missing, the end mark may lack.
        yield filter(_looks_like_video, tar_members(stream, end_mark=stream is raw))
        _read_to_end(stream, path)


def _content(member: TarMember, path: Path) -> bytes:
    with _explained(path):
        return member.read()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What is wrong with an archive, as an ArchiveError."""
    try:
        yield
    except FileNotFoundError as error:
        raise ArchiveError(f"no such archive: {path}") from error
    except _DAMAGE as error:
        raise ArchiveError(f"{path} is {_describe(path)}: {error}") from error
    except OSError as error:
        raise ArchiveError(f"cannot read {path}: {error.strerror or error}") from error


def _read_to_end(stream: IO[bytes] | gzip.GzipFile, path: Path) -> None:
    """Read on behind the end mark: gzip has its checksum there, a plain tar zeros and nothing else.

    A plain tar with a hole, where a header was and zeros are, would otherwise just look shorter.
    """
    while data := stream.read(_CHUNK):
        if not isinstance(stream, gzip.GzipFile) and data.strip(b"\0"):
            raise ArchiveError(f"{path} is a damaged or truncated archive: there is data behind its end mark")


def _describe(path: Path) -> str:
    """What a file that cannot be read as an archive is, by its first bytes."""
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return "empty"
    if head.lstrip()[:1] == b"<":
        return "a web page, not an archive"
    if head[:2] == b"\x1f\x8b" or head[257:262] == b"ustar":
        return "a damaged or truncated archive"
    return "not an archive"
