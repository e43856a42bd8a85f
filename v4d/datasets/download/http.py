"""What a server says: one request, with what went wrong sorted into "may pass" and "will not"."""

import random
import re
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
import urllib3

from v4d.datasets.download.checksums import says_md5
from v4d.errors import V4DError
from v4d.utils.addresses import whole

CONNECT_SECONDS = 30
SMALL = 1 << 20
"""Bytes of a list of archives, of which the longest has 0.1 MB."""
_WORTH_RETRYING = {408, 425, 429, 500, 502, 503, 504, 507, 509}


class TransientError(Exception):
    """The connection or the server failed in a way that may pass. `retry_after` (seconds): it said when."""

    def __init__(self, message: str, retry_after: float | None = None):
        super().__init__(message)
        self.retry_after = retry_after


class UnavailableError(V4DError):
    """A file cannot be had from its source, now or ever; nothing is wrong here."""


class Changed(Exception):
    """The file at the address is not the one whose first bytes are here."""


@dataclass(frozen=True)
class RetryPolicy:
    """How long a failing server is put up with; with these values, for about an hour.

    The waits (seconds) double from `first` to `cap`, `attempts` counts tries in a row that brought next to
    nothing. A connection that brings less than `least_rate` bytes/s over `stall` seconds is given up.
    """

    first: float = 1.0
    cap: float = 300.0
    attempts: int = 20
    stall: float = 60.0
    least_rate: float = 1000.0

    def wait(self, failures: int, error: TransientError, stop: threading.Event) -> None:
        """Sleep after the n-th failure in a row, or as long as the server told, up to the cap.

        Raises:
            UnavailableError: that was the last try.
        """
        if failures >= self.attempts:
            raise UnavailableError(f"{error} ({failures} tries)") from error
        seconds = self.first * 2 ** min(failures - 1, 30)
        seconds *= random.uniform(0.8, 1.2)  # jobs that failed together shall not come back together
        seconds = min(self.cap, max(seconds, error.retry_after or 0.0))
        note = f"{error}; again in {seconds:.0f} s (try {failures} of {self.attempts})"
        print(note, file=sys.stderr, flush=True)
        stop.wait(seconds)


@dataclass(frozen=True)
class Remote:
    """What a server says about a file. `size` in bytes, None if it does not say."""

    size: int | None
    etag: str = ""
    modified: str = ""
    ranges: bool = False
    etag_is_md5: bool = False

    @property
    def identity(self) -> list[object]:
        """What another file at the same address would differ in."""
        return [self.size, self.etag, self.modified]


def probe(url: str) -> Remote:
    """Ask for the first byte: redirects followed, size, ETag, and whether ranges work.

    Raises:
        TransientError: worth another try.
        UnavailableError, V4DError: not worth one (404, 403; no such protocol).
    """
    with get(url, {"Range": "bytes=0-0"}) as response:
        headers = response.headers
        ranges = response.status_code == 206
        if response.status_code == 416:
            raise UnavailableError(f"{url} is empty")
        name = "Content-Range" if ranges else "Content-Length"
        total = headers.get(name, "").rpartition("/")[2]
        size = _number(total)
        etag, modified = headers.get("ETag", ""), headers.get("Last-Modified", "")
        return Remote(size, etag, modified, ranges and size is not None, says_md5(headers))


@contextmanager
def get(url: str, headers: dict[str, str], silence: float = 60.0) -> Iterator[requests.Response]:
    """A response of status 200, 206 or 416, its body unread.

    Args:
        silence: seconds without a byte after which the connection counts as broken.

    Raises:
        TransientError, V4DError: as `probe`.
    """
    headers = {"Accept-Encoding": "identity", **headers}
    try:
        response = requests.get(whole(url), headers=headers, stream=True, timeout=(CONNECT_SECONDS, silence))
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise TransientError(f"{url}: {short_cause(error)}") from error
    except requests.RequestException as error:
        raise V4DError(f"{url}: {short_cause(error)}") from error
    with response:
        status = response.status_code
        if status in _WORTH_RETRYING:
            told = response.headers.get("Retry-After", "")
            raise TransientError(f"{url}: {status} {response.reason[:100]}", _number(told))
        if status not in (200, 206, 416):
            raise UnavailableError(f"{url}: {status} {response.reason[:100]}")
        if status != 416 and response.headers.get("Content-Type", "").startswith("text/html"):
            raise TransientError(f"{url}: a web page came in place of the file")  # a login or error page
        yield response


def _number(text: str) -> int | None:
    """A number in a header, which may say anything."""
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def read_text(url: str) -> str:
    """A text file of at most `SMALL` bytes, http, https or file, in one try.

    Raises:
        TransientError, V4DError: as `probe`.
    """
    if url.startswith("file:"):
        try:
            return local_path(url).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise V4DError(f"cannot read {url}: {error}") from error
    with get(url, {}) as response:
        try:
            text = b""
            while data := response.raw.read(1 << 16, decode_content=True):
                text += data
                if len(text) > SMALL:
                    raise UnavailableError(f"{url}: more than {SMALL} bytes came, which is no list")
            return text.decode("utf-8", "replace")
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise TransientError(f"{url}: {short_cause(error)}") from error


def local_path(url: str) -> Path:
    """The path in a file address.

    Raises:
        V4DError: it names a host.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise V4DError(f"{url}: a file address has three slashes, file:///...")
    return Path(urllib.request.url2pathname(parts.path))


def short_cause(error: Exception) -> str:
    """The innermost cause, without the memory addresses and class names around it."""
    while True:
        inner = getattr(error, "reason", None) or error.__cause__ or error.__context__
        if not isinstance(inner, Exception) or inner is error:
            break
        error = inner
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
