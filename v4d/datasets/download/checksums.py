"""Digests of a file, among them the ETags that S3 would give it.

An object that was uploaded in one piece has its MD5 as ETag. One that was uploaded in `n` parts has the
MD5 of the parts' MD5s and `-n`; how large the parts were is not said, so the sizes that uploading tools
use are tried. Encrypted objects (KMS) and other servers have ETags that say nothing about the content.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIB = 1 << 20
PART_MIB = (5, 6, 7, 8, 10, 12, 15, 16, 20, 25, 30, 32, 50, 64, 100, 128, 200, 250, 256, 500, 512, 1024)
"""Part sizes (MiB) of common uploading tools: 8 of the AWS command line, 15 of s3cmd, 5 the least allowed."""
_PLAIN = re.compile(r"[0-9a-f]{32}")
_PARTS = re.compile(r"([0-9a-f]{32})-([1-9][0-9]{0,4})")  # S3 allows 10,000
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Digests:
    """A file's size and sha256, and what its ETag says: True it fits, False it does not, None nothing."""

    size: int
    sha256: str
    etag_fits: bool | None


def digest(path: Path, etag: str = "", *, strict: bool = False) -> Digests:
    """Read a file once.

    Args:
        etag: as in the header, with its quotes or without.
        strict: the server is known to be S3 without KMS: a plain ETag that is not the MD5 is a fault and
            not just another kind of ETag.
    """
    size = path.stat().st_size
    etag = etag.strip('"').lower()
    plain = _PLAIN.fullmatch(etag) is not None
    sha, whole = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    parts = [_PartsHash(length) for length in _part_lengths(size, etag)]
    with path.open("rb") as file:
        while data := file.read(_CHUNK):
            for hashed in (sha, *parts, *([whole] if plain else ())):
                hashed.update(data)
    fits = etag in (whole.hexdigest(), *(candidate.etag() for candidate in parts))
    return Digests(size, sha.hexdigest(), fits or (False if plain and strict else None))


def says_md5(headers: Mapping[str, str]) -> bool:
    """Whether a response comes from S3 and its plain ETag is the content's MD5."""
    s3 = "x-amz-request-id" in headers or headers.get("Server") == "AmazonS3"
    encryption = headers.get("x-amz-server-side-encryption", "AES256")
    customer_key = "x-amz-server-side-encryption-customer-algorithm" in headers
    return s3 and encryption == "AES256" and not customer_key


def _part_lengths(size: int, etag: str) -> list[int]:
    """The lengths of parts (bytes) that make as many parts of `size` as the ETag says."""
    match = _PARTS.fullmatch(etag)
    if not match:
        return []
    count = int(match[2])
    if count == 1:
        return [max(size, 1)]
    even = -(-size // count)  # equal parts, as some tools cut them, also rounded up to whole MiB
    lengths = {n * MIB for n in PART_MIB} | {n * 1000_000 for n in PART_MIB} | {even, -(-even // MIB) * MIB}
    return sorted(n for n in lengths if -(-size // n) == count)


class _PartsHash:
    """MD5 of the MD5s of parts."""

    def __init__(self, length: int):
        self.length, self.size = length, 0
        self._parts: list[Any] = []

    def update(self, data: bytes) -> None:
        view = memoryview(data)
        while len(view):
            begun = self.size % self.length
            if begun == 0:
                self._parts.append(hashlib.md5(usedforsecurity=False))
            piece = view[: self.length - begun]
            self._parts[-1].update(piece)
            self.size, view = self.size + len(piece), view[len(piece) :]

    def etag(self) -> str:
        digests = b"".join(part.digest() for part in self._parts)
        return f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(self._parts)}"
