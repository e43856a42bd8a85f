"""Replacements for corrupted videos: gzip at the source, here a plain tar with random access."""

import functools
import os
import tarfile
from pathlib import Path

from v4d.datasets.archives import ArchiveError, Member, add_member, read_members
from v4d.errors import V4DError
from v4d.utils.files import atomic_path

LARGEST = 256 << 20
"""Bytes of a replacement."""


class Replacements:
    """Videos by id, read where they lie; safe to use from several threads."""

    def __init__(self, path: Path):
        """Read the index of a tar that `repack` wrote.

        Raises:
            V4DError: there is no such file, or it is damaged.
        """
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            with tarfile.open(path, "r:") as archive:
                self._places = {info.name[:-4]: (info.offset_data, info.size) for info in archive}
        except FileNotFoundError as error:
            raise V4DError(
                f"no replacements: {path}; `v4d download --part replacements` brings them, "
                f"dataset.kinetics.use_replacements: false does without"
            ) from error
        except (OSError, tarfile.TarError) as error:
            raise ArchiveError(f"{path} is damaged: {error}") from error

    def get(self, video_id: str) -> Member | None:
        """A replacement, or None."""
        if (place := self._places.get(video_id)) is None:
            return None
        offset, size = place
        return Member(video_id, size, functools.partial(os.pread, self._descriptor, size, offset))


def repack(source: Path, target: Path) -> int:
    """Write the archive of replacements as a plain tar of `<video_id>.mp4`; the number of videos.

    A gzip stream has no random access, and every part would have to read all of it. What is larger than a
    video can be is left out.
    """
    seen: set[str] = set()
    with atomic_path(target) as temporary, tarfile.open(temporary, "w") as archive:
        for member in read_members(source, lambda video_id, span: video_id not in seen):
            if not member.refused and member.size <= LARGEST:
                seen.add(member.video_id)
                add_member(archive, f"{member.video_id}.mp4", member.read())
    return len(seen)
