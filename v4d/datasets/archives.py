"""Archives of videos, read as a stream: members one after the other, nothing unpacked to disk.

What is gzip and what is plain tar is told by content (files named .tar.gz have been plain). Only regular
files count, by the last part of their path; a member whose path climbs out, a link or a device is refused.
An archive that ends early or is damaged raises: it never just looks shorter.
"""

import gzip
import io
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from v4d.errors import V4DError
from v4d.utils.files import atomic_path
from v4d.utils.videos import ARCHIVED_SUFFIXES

LARGEST = 2 << 30
"""Bytes of a member above which it is no clip but a mistake or a bomb: members pass through memory."""
_TIMES = re.compile(r"_(\d{6})_(\d{6})$")
_DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, tarfile.TarError)
_CHUNK = 1 << 20


class ArchiveError(V4DError):
    """An archive is damaged, cut short, or no archive."""


@dataclass(frozen=True)
class Member:
    """A video in an archive. `refused` says why it may not be used ("" if it may); then `data` is empty."""

    video_id: str
    data: bytes
    refused: str = ""


Wanted = Callable[[str, tuple[int, int] | None], bool]
"""Whether the video with this id and span (seconds; None where the name has none) is to be read."""


def add_member(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    """Append a file to an archive, without time or owner: the same files make the same archive."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


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
    stem = PurePosixPath(name.replace("\\", "/")).stem
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
    with _open_tar(path) as archive:
        for info in _videos(archive):
            video_id, span = parse_name(info.name)
            if wanted(video_id, span):
                refused = _refusal(info)
                yield Member(video_id, b"" if refused else _content(archive, info, path), refused)


def check_archive(path: Path) -> int:
    """Read an archive to its end; the number of videos in it.

    Raises:
        ArchiveError: it is damaged, ends early, or holds no video.
    """
    with _open_tar(path) as archive:
        count = sum(1 for _ in _videos(archive))
    if count == 0:
        raise ArchiveError(f"{path} holds no videos")
    return count


def _videos(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (info := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # tarfile would keep them all
        if _looks_like_video(info):
            yield info


def _looks_like_video(info: tarfile.TarInfo) -> bool:
    name = PurePosixPath(info.name.replace("\\", "/")).name
    # `._x.mp4` holds macOS's attributes of x.mp4
    return not info.isdir() and not name.startswith("._") and Path(name).suffix.lower() in ARCHIVED_SUFFIXES


def _refusal(info: tarfile.TarInfo) -> str:
    """Why a member may not be used, or ""."""
    path = PurePosixPath(info.name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        return f"the member's path leaves its folder: {info.name}"
    if not info.isreg():
        return "the member is a link" if info.issym() or info.islnk() else "the member is no regular file"
    if info.size > LARGEST:
        return f"the member has {info.size} bytes, more than a clip can have"
    return ""


def _content(archive: tarfile.TarFile, info: tarfile.TarInfo, path: Path) -> bytes:
    file = archive.extractfile(info)
    data = file.read() if file else b""
    if len(data) != info.size:
        raise ArchiveError(f"{path} ends early, in {info.name}")
    return data


@contextmanager
def _open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """Open for one pass; at the end of the block make sure that the archive was whole."""
    try:
        with path.open("rb") as raw:
            head = raw.read(2)
            raw.seek(0)
            stream: Any = gzip.GzipFile(fileobj=raw) if head == b"\x1f\x8b" else raw
            with tarfile.open(fileobj=stream, mode="r:", tarinfo=_StrictInfo) as archive:
                archive.plain = stream is raw  # type: ignore[attr-defined]  # for _StrictInfo
                yield archive
                _read_to_end(stream, path)
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


class _StrictInfo(tarfile.TarInfo):
    """Headers that tarfile would take for the end of the archive raise instead.

    tarfile stops without an error at a damaged header and where the file ends between two members; only a
    block of zeros is an end. Inside gzip, whose checksum says that nothing is missing, the block may lack.
    """

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> "_StrictInfo":
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.EmptyHeaderError as error:  # type: ignore[attr-defined]
            if getattr(archive, "plain", True):
                raise tarfile.ReadError("it ends without an end mark") from error
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"damaged at byte {archive.offset}: {error}") from error


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
