"""Ranges of one file over http(s), several at a time, with a journal of what has come.

The partial file has its full length from the start; `<partial>.json` says which bytes are there. It is
written behind the data, so that after a kill -9 it claims too little and never too much.
"""

import contextlib
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
import urllib3

from v4d.datasets.download.http import Changed, Remote, RetryPolicy, TransientError, get, short_cause
from v4d.errors import V4DError
from v4d.utils.progress import meter

SEGMENT = 32 << 20
"""Bytes of one range request."""
MEGABYTE = 1_000_000
SMALL = 5 * MEGABYTE
"""A file below this many bytes is there before anybody wonders."""
_CHUNK = 1 << 18
_JOURNAL_SECONDS = 0.5


class Transfer:
    """One file on its way into `partial`.

    Attributes:
        missing: bytes still to come when the transfer begins.
    """

    def __init__(
        self,
        url: str,
        partial: Path,
        remote: Remote,
        patience: RetryPolicy,
        connections: int = 1,
        rate_limit: float | None = None,
    ):
        self.url, self.partial, self.remote, self.patience = url, partial, remote, patience
        self.connections = connections if remote.ranges else 1
        self._bucket = _Bucket(rate_limit * 1e6 if rate_limit else None)
        self._stop = threading.Event()
        self._segments = self._resume()
        left = sum(segment.left for segment in self._segments)
        self.missing = left if self._segments else remote.size or 0

    def run(self) -> None:
        """Bring every byte.

        Raises:
            Changed: start again from nothing.
            V4DError: out of patience, or the disk is full.
        """
        self._segments = self._segments or self._fresh()
        todo: queue.SimpleQueue[_Segment] = queue.SimpleQueue()
        for segment in self._segments:
            if segment.left:
                todo.put(segment)
        try:
            self._file = os.open(self.partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise V4DError(f"cannot write {self.partial}: {error.strerror}") from error
        try:
            os.ftruncate(self._file, self.remote.size or 0)
            with ThreadPoolExecutor(self.connections) as pool, self._stopping():
                workers = [pool.submit(self._work, todo) for _ in range(self.connections)]
                self._report_until_done(workers)
                for worker in workers:
                    worker.result()
        except OSError as error:
            raise V4DError(f"cannot write {self.partial}: {error.strerror or error}") from error
        finally:
            self._write_journal()
            os.close(self._file)

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        """Have the workers end however the block ends (Ctrl-C, say), since the pool waits for them."""
        try:
            yield
        finally:
            self._stop.set()

    def _resume(self) -> "list[_Segment]":
        """What the journal of an earlier try holds, if that was the same file."""
        try:
            journal = json.loads(journal_of(self.partial).read_text())
            same = journal["identity"] == self.remote.identity and self.partial.exists()
            if same and self.remote.ranges and (self.remote.etag or self.remote.modified):
                return [_Segment(*numbers) for numbers in journal["segments"]]
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return []

    def _fresh(self) -> "list[_Segment]":
        self.partial.unlink(missing_ok=True)
        journal_of(self.partial).unlink(missing_ok=True)
        size = self.remote.size
        if size is None or not self.remote.ranges:
            return [_Segment(0, -1 if size is None else size)]
        return [_Segment(start, min(SEGMENT, size - start)) for start in range(0, size, SEGMENT)]

    def _work(self, todo: "queue.SimpleQueue[_Segment]") -> None:
        """Fetch segments until none is left; the first failure stops the other workers, too."""
        try:
            while not self._stop.is_set():
                try:
                    segment = todo.get_nowait()
                except queue.Empty:
                    return
                self._fetch_segment(segment)
        except BaseException:
            self._stop.set()
            raise

    def _fetch_segment(self, segment: "_Segment") -> None:
        failures = 0
        while segment.left and not self._stop.is_set():
            before, started = segment.done, time.monotonic()
            try:
                if self.remote.ranges:
                    self._fetch_range(segment)
                else:
                    segment.done = 0  # a server without ranges has to send all of it again
                    self._fetch_whole(segment)
            except TransientError as error:
                came, least = segment.done - before, self.patience.least_rate * (time.monotonic() - started)
                failures = 1 if self.remote.ranges and came > least else failures + 1
                self.patience.wait(failures, error, self._stop)

    def _fetch_range(self, segment: "_Segment") -> None:
        first, last = segment.start + segment.done, segment.start + segment.length - 1
        with get(self.url, {"Range": f"bytes={first}-{last}"}, self.patience.stall) as response:
            whole = response.headers.get("Content-Range", "")
            if response.status_code != 206 or whole != f"bytes {first}-{last}/{self.remote.size}":
                raise Changed(f"{self.url}: {response.status_code} {whole!r} for bytes {first}-{last}")
            self._check_identity(response)
            for data in self._chunks(response, segment.left):
                _write(self._file, data, segment.start + segment.done)
                segment.done += len(data)
        if segment.left:
            raise TransientError(f"{self.url}: the connection ended early")

    def _fetch_whole(self, segment: "_Segment") -> None:
        with get(self.url, {}, self.patience.stall) as response:
            if response.headers.get("Content-Length", "") != str(self.remote.size or ""):
                raise Changed(f"{self.url}: another length than before")
            self._check_identity(response)
            limit = segment.length if segment.length >= 0 else sys.maxsize
            for data in self._chunks(response, limit):
                _write(self._file, data, segment.done)
                segment.done += len(data)
        if segment.length < 0:  # no length was announced: what came is what there is
            segment.length = segment.done
        elif segment.left:
            raise TransientError(f"{self.url}: the connection ended early, after {segment.done} bytes")

    def _check_identity(self, response: requests.Response) -> None:
        """Never put the bytes of two files together."""
        headers = response.headers
        identity = headers.get("ETag", ""), headers.get("Last-Modified", "")
        if identity != (self.remote.etag, self.remote.modified):
            raise Changed(f"{self.url}: another ETag or date than before")

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

    def _report_until_done(self, workers: "list[Future[None]]") -> None:
        """Write the journal and show progress, until all workers have ended; nothing for small files."""
        size, seen = self.remote.size, 0
        small = size is not None and size < SMALL
        total = None if size is None else size // MEGABYTE
        shown = None if small else meter(f"download {self.url.rpartition('/')[2]}", total, "MB")
        while wait(workers, timeout=_JOURNAL_SECONDS).not_done:
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
