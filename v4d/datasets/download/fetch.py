"""One file over http(s) or from a disk, in spite of what happens to long downloads.

The bytes go to a hidden file beside the target, a journal says which ranges are there; a broken connection,
a restart or a kill -9 goes on from it. Only what has the announced length, an ETag that fits (where it
can be computed) and a content that passes `check` gets the target's name.
"""

import contextlib
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from v4d.datasets.download.checksums import digest
from v4d.datasets.download.http import (
    Changed,
    Remote,
    RetryPolicy,
    TransientError,
    UnavailableError,
    local_path,
    probe,
)
from v4d.datasets.download.ranges import Transfer, discard
from v4d.datasets.lockfile import LockEntry
from v4d.errors import V4DError
from v4d.utils.files import exclusive, sync_file, sync_folder

Check = Callable[[Path], object]
"""Raises V4DError where a file's content is wrong."""
SPARE_BYTES = 256 << 20
"""What a download leaves free on the disk."""


class WrongContentError(UnavailableError):
    """A file came whole and is not what it should be. `final`: it would be the same the next time."""

    def __init__(self, message: str, final: bool = False):
        super().__init__(message)
        self.final = final


def fetch(
    url: str,
    target: Path,
    *,
    connections: int = 1,
    rate_limit: float | None = None,
    patience: RetryPolicy = RetryPolicy(),  # noqa: B008 (frozen)
    limit: int = sys.maxsize,
    check: Check = lambda path: None,
    accept: Callable[[LockEntry], None] = lambda entry: None,
) -> LockEntry:
    """Bring a file; returns its size, sha256 and origin.

    Args:
        url: http, https or file.
        connections: ranges fetched at a time, where the server knows ranges.
        rate_limit: megabytes a second at most.
        limit: bytes that the file may have.
        check: raises V4DError where the content is wrong; then it is fetched once more.
        accept: called before the file gets its name; what it raises keeps the name from it.

    Raises:
        V4DError: it cannot be had; the message says why. What has come stays for the next try.
    """
    with exclusive(target):
        partial = target.with_name(f".{target.name}.download")
        for last in (False, True):
            if url.startswith("file:"):
                remote = _copy(url, partial)
            else:
                remote = _download(url, partial, connections, rate_limit, patience, limit)
            try:
                entry = _examined(url, partial, remote, check)
            except WrongContentError as error:
                discard(partial)
                if last or error.final:
                    raise
                patience.wait(1, TransientError(str(error)), threading.Event())
            else:
                break
        accept(entry)
        sync_file(partial)
        partial.replace(target)
        sync_folder(target.parent)
        discard(partial)
        return entry


def _download(
    url: str, partial: Path, connections: int, rate_limit: float | None, patience: RetryPolicy, limit: int
) -> Remote:
    """Transfer until all bytes are there; starts over where the file at the address has changed."""
    for _ in range(3):
        remote = _persist(lambda: probe(url), patience)
        if (remote.size or 0) > limit:
            raise UnavailableError(f"{url}: {remote.size} bytes are announced, more than {limit}")
        room = max(1, shutil.disk_usage(partial.parent).free - SPARE_BYTES)
        transfer = Transfer(url, partial, remote, patience, connections, rate_limit, min(limit, room))
        _check_space(partial, transfer.missing)
        try:
            transfer.run()
            return remote
        except Changed:
            discard(partial)
    raise UnavailableError(f"{url} keeps changing while it is downloaded")


def _persist(action: Callable[[], Remote], patience: RetryPolicy) -> Remote:
    """Repeat an action that fails for reasons that may pass, until the patience ends."""
    failures = 0
    while True:
        try:
            return action()
        except TransientError as error:
            failures += 1
            patience.wait(failures, error, threading.Event())


def _copy(url: str, partial: Path) -> Remote:
    """A file of this machine, or of a mounted share, in place of a download."""
    source = local_path(url)
    try:
        size = source.stat().st_size
        partial.unlink(missing_ok=True)
        _check_space(partial, size)
        shutil.copyfile(source, partial)
    except FileNotFoundError as error:
        raise UnavailableError(f"no such file: {source}") from error
    except OSError as error:
        raise V4DError(f"cannot copy {source}: {error.strerror}") from error
    return Remote(size=size)


def _examined(url: str, partial: Path, remote: Remote, check: Check) -> LockEntry:
    """Length, ETag, content.

    Raises:
        WrongContentError: one of them is wrong.
    """
    digests = digest(partial, remote.etag, strict=remote.etag_is_md5)
    if remote.size is not None and digests.size != remote.size:
        raise WrongContentError(f"{url}: {digests.size} bytes came, {remote.size} were announced")
    if digests.etag_fits is False:
        raise WrongContentError(f"{url}: the content does not fit its ETag {remote.etag}")
    try:
        check(partial)
    except V4DError as error:
        text = str(error).replace(str(partial), url)
        raise WrongContentError(text, final=digests.etag_fits is True or url.startswith("file:")) from error
    return LockEntry(digests.size, digests.sha256, remote.etag, url)


def _check_space(partial: Path, missing: int) -> None:
    """Refuse to begin what will not fit, counting what other downloads in this folder still need."""
    others = 0
    for file in partial.parent.glob(".*.download"):
        with contextlib.suppress(FileNotFoundError):  # that one has just ended
            stat = file.stat()  # set to its full length at once, so what is not allocated is still to come
            others += 0 if file == partial else max(0, stat.st_size - 512 * stat.st_blocks)
    free = shutil.disk_usage(partial.parent).free
    if missing + others + SPARE_BYTES > free:
        needed = f"{missing / 1e9:.2f} GB" + (f" and {others / 1e9:.2f} GB for others" if others else "")
        raise V4DError(
            f"the disk of {partial.parent.resolve()} is too full: {needed} to come and "
            f"{SPARE_BYTES / 1e9:.2f} GB to spare, {free / 1e9:.2f} GB free"
        )
