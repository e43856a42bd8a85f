"""Ranges of one file over http(s), several at a time, with a journal of what has come.

The partial file has its full length from the start; `<partial>.json` says which bytes are there. It is
written behind the data, so that after a kill -9 it claims too little and never too much.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import requests
import urllib3

from v4d.datasets.download.http import (
    Changed,
    Remote,
    RetryPolicy,
    TransientError,
    UnavailableError,
    get,
    short_cause,
)
from v4d.errors import V4DError
from v4d.utils.progress import meter

SEGMENT = 32 << 20
"""Bytes of one range request."""
MEGABYTE = 1_000_000
SMALL = 5 * MEGABYTE
"""A file below this many bytes is there before anybody wonders."""
_CHUNK = 1 << 18
_JOURNAL_SECONDS = 0.5


@dataclass
class Transfer:
    """One file on its way into `partial`.

    Attributes:
        missing: bytes still to come when the transfer begins.
    """

    url: str
    partial: Path
    remote: Remote
    patience: RetryPolicy
    connections: int
    rate_limit: float | None
    limit: int

    def __post_init__(self) -> None:
        self._bucket = _Bucket(self.rate_limit * 1e6 if self.rate_limit else None)
        self._stop = threading.Event()
        self._segments = self._resume()
        left = sum(segment.left for segment in self._segments)
        self.missing = left if self._segments else self.remote.size or 0

    def run(self) -> None:
        """Bring every byte.

        Raises:
            Changed: start again from nothing.
            V4DError: out of patience, or the disk is full.
        """
        self._segments = self._segments or self._fresh()
        try:
            self._file = os.open(self.partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                os.ftruncate(self._file, self.remote.size or 0)
                self._fetch_all()
            finally:
                self._write_journal()
                os.close(self._file)
        except OSError as error:
            raise V4DError(f"cannot write {self.partial}: {error.strerror or error}") from error

    def _fetch_all(self) -> None:
        with ThreadPoolExecutor(self.connections if self.remote.ranges else 1) as pool:
            try:
                fetched = [pool.submit(self._fetch, segment) for segment in self._segments]
                self._report_until_done(fetched)
                for future in fetched:
                    future.result()
            finally:
                self._stop.set()  # also on Ctrl-C: the pool waits for its threads

    def _resume(self) -> "list[_Segment]":
        """What the journal of an earlier try holds, if that was the same file."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            journal = json.loads(journal_of(self.partial).read_text())
            same = journal["identity"] == self.remote.identity and self.partial.exists()
            if same and self.remote.ranges and (self.remote.etag or self.remote.modified):
                return [_Segment(*numbers) for numbers in journal["segments"]]
        return []

    def _fresh(self) -> "list[_Segment]":
        discard(self.partial)
        size = self.remote.size
        if size is None or not self.remote.ranges:
            return [_Segment(0, -1 if size is None else size)]
        return [_Segment(start, min(SEGMENT, size - start)) for start in range(0, size, SEGMENT)]

    def _fetch(self, segment: "_Segment") -> None:
        """Fetch a segment, with patience; a failure stops the others, too."""
        failures = 0
        try:
            while segment.left and not self._stop.is_set():
                before, started = segment.done, time.monotonic()
                try:
                    self._request(segment)
                except TransientError as error:
                    came, seconds = segment.done - before, time.monotonic() - started
                    enough = self.remote.ranges and came > self.patience.least_rate * seconds
                    failures = 1 if enough else failures + 1
                    self.patience.wait(failures, error, self._stop)
        except BaseException:
            self._stop.set()
            raise

    def _request(self, segment: "_Segment") -> None:
        """Ask for what a segment lacks; a server without ranges has to send all of it again."""
        segment.done = segment.done if self.remote.ranges else 0
        first, last = segment.start + segment.done, segment.start + segment.length - 1
        asked = {"Range": f"bytes={first}-{last}"} if self.remote.ranges else {}
        with get(self.url, asked, self.patience.stall) as response:
            self._check_same(response, f"bytes {first}-{last}/{self.remote.size}")
            for data in self._chunks(response, segment.left if segment.length >= 0 else self.limit):
                _write(self._file, data, segment.start + segment.done)
                segment.done += len(data)
        if segment.length < 0 and segment.done >= self.limit:
            raise UnavailableError(f"{self.url}: {self.limit} bytes came and no end, which is too much")
        if segment.length < 0:  # no length was announced: what came is what there is
            segment.length = segment.done
        elif segment.left:
            after = "" if self.remote.ranges else f", after {segment.done} bytes"
            raise TransientError(f"{self.url}: the connection ended early{after}")

    def _check_same(self, response: requests.Response, content_range: str) -> None:
        """Never put the bytes of two files together."""
        remote, headers = self.remote, response.headers
        if remote.ranges:
            fits = response.status_code == 206 and headers.get("Content-Range", "") == content_range
        else:
            fits = headers.get("Content-Length", "") == str(remote.size or "")
        identity = headers.get("ETag", ""), headers.get("Last-Modified", "")
        if not fits or identity != (remote.etag, remote.modified):
            raise Changed(f"{self.url}: another length, ETag or date than before")

    def _chunks(self, response: requests.Response, limit: int) -> Iterator[bytes]:
        """The body as it comes, `limit` bytes at most, within the rate; a connection that drips is broken."""
        waited, came = 0.0, 0
        while limit > 0 and not self._stop.is_set():
            asked = time.monotonic()
            try:
                data = response.raw.read1(min(_CHUNK, limit), decode_content=False)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise TransientError(f"{self.url}: {short_cause(error)}") from error
            if not data:
                return
            limit -= len(data)
            waited, came = waited + time.monotonic() - asked, came + len(data)
            yield data
            self._bucket.take(len(data), self._stop)
            if waited > self.patience.stall:
                if came < self.patience.least_rate * waited:
                    raise TransientError(f"{self.url}: only {came / waited:.0f} bytes a second")
                waited, came = 0.0, 0

    def _report_until_done(self, fetched: "list[Future[None]]") -> None:
        """Write the journal and show progress, until all have ended; nothing for small files."""
        size, seen = self.remote.size, 0
        small = size is not None and size < SMALL
        total = None if size is None else size // MEGABYTE
        shown = None if small else meter(f"download {self.url.rpartition('/')[2]}", total, "MB")
        while wait(fetched, timeout=_JOURNAL_SECONDS).not_done:
            self._write_journal()
            if shown:
                done = sum(segment.done for segment in self._segments) // MEGABYTE
                shown.update(done - seen)
                seen = done
        if shown:
            shown.close()

    def _write_journal(self) -> None:
        """Without a sync: what a power cut takes from it is found when the whole file is checked."""
        if not self.remote.ranges:
            return
        segments = [[segment.start, segment.length, segment.done] for segment in self._segments]
        journal = journal_of(self.partial)
        temporary = journal.with_name(journal.name + ".new")
        with contextlib.suppress(OSError):  # a full disk: the data's own write says so
            temporary.write_text(json.dumps({"identity": self.remote.identity, "segments": segments}))
            temporary.replace(journal)


def journal_of(partial: Path) -> Path:
    """The file that says which bytes of `partial` are there."""
    return partial.with_name(partial.name + ".json")


def discard(partial: Path) -> None:
    """Remove a partial file and its journal."""
    partial.unlink(missing_ok=True)
    journal_of(partial).unlink(missing_ok=True)


@dataclass
class _Segment:
    """A range of the file (bytes) and how much of it has come; length -1 where nobody knows."""

    start: int
    length: int
    done: int = 0

    @property
    def left(self) -> int:
        return self.length - self.done if self.length >= 0 else 1


class _Bucket:
    """Holds all connections together to `rate` bytes a second."""

    def __init__(self, rate: float | None):
        self._rate, self._due, self._lock = rate, time.monotonic(), threading.Lock()

    def take(self, count: int, stop: threading.Event) -> None:
        if self._rate is None:
            return
        with self._lock:
            now = time.monotonic()
            self._due = max(self._due, now) + count / self._rate
            seconds = self._due - now
        stop.wait(seconds)


def _write(file: int, data: bytes, offset: int) -> None:
    """pwrite, which may write less than it was given."""
    view = memoryview(data)
    while len(view):
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written
