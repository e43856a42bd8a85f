"""The members of a tar archive, one after the other, from a stream that nobody vouches for.

Every block is read once, forwards. What describes a member takes `LONGEST` bytes at most; what does not add
up is damage. Python's tarfile takes a damaged header for the end of the archive, follows chains of headers by
recursion, keeps maps of sparse files in memory, and goes backwards at a negative size.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

BLOCK = 512
LONGEST = 1 << 20
"""Bytes of extended headers (long names, PAX records, sparse maps) before one member."""
LARGEST = 1 << 60
"""Bytes of a member, beyond which its size is damage."""
_EXTENDED = (b"L", b"K", b"x", b"X", b"g")
_REGULAR, _FOLDER, _SPARSE = (b"0", b"\0", b"7"), b"5", b"S"
_ODD = {b"1": "a link", b"2": "a link", b"3": "a device", b"4": "a device", b"5": "a folder", b"6": "a pipe"}
"""Kinds of members that have no content."""


class TarDamage(Exception):
    """The archive is no tar, damaged, or cut short."""


@dataclass(frozen=True)
class TarMember:
    """A member; its bytes may be read until the next one is asked for."""

    name: str
    size: int
    """Bytes in the archive."""
    odd: str
    """What it is where it is no ordinary file, e.g. `a link`; else ""."""
    stream: IO[bytes]
    start: int

    def read(self) -> bytes:
        """All of it.

        Raises:
            TarDamage: the archive ends before it does.
        """
        self.stream.seek(self.start)
        content, left = io.BytesIO(), self.size
        while left and (data := self.stream.read(min(left, 1 << 20))):
            content.write(data)
            left -= len(data)
        if left:
            raise TarDamage(f"it ends early, in {self.name[:200]!r}")
        return content.getvalue()


def tar_members(stream: IO[bytes], *, end_mark: bool) -> Iterator[TarMember]:
    """The members up to the end mark, a block of zeros.

    Args:
        stream: at the archive's first byte; it can seek forwards.
        end_mark: the archive must have one; without, it may end between two members.

    Raises:
        TarDamage: something is wrong with the archive.
    """
    place = stream.tell()
    while True:
        header = _Header(stream, place, end_mark)
        if header.at_end:
            return
        yield TarMember(header.name, header.size, header.odd, stream, header.data)
        place = header.following
        if place > header.data:  # a file that ends before the member does can be sought in all the same
            stream.seek(place - 1)
            if not stream.read(1):
                raise TarDamage(f"it ends early, in {header.name[:200]!r}")


class _Header:
    """All that describes one member, from its first extended header on."""

    def __init__(self, stream: IO[bytes], place: int, end_mark: bool):
        self.stream, self.spent = stream, 0
        self.name, self.size, self.odd, self.at_end = "", 0, "", False
        long_name, records = b"", dict[bytes, bytes]()
        stream.seek(place)
        while (block := self._block(end_mark and not self.spent)) and block[156:157] in _EXTENDED:
            kind, content = block[156:157], self._content(_number(block[124:136]))
            if kind == b"L":
                long_name = content.partition(b"\0")[0]
            elif kind in b"xX":
                records |= _records(content)
        if not block:
            if self.spent:
                raise TarDamage("it ends in the description of a member")
            self.at_end = True
            return
        kind = block[156:157]
        more = kind == _SPARSE and block[482]
        while more:
            more = self._content(BLOCK)[504]
        name = records.get(b"GNU.sparse.name") or records.get(b"path") or long_name or _name(block)
        self.name = name.decode("utf-8", "surrogateescape")
        self.size = _size(records[b"size"]) if b"size" in records else _number(block[124:136])
        if kind == b"\0" and name.endswith(b"/"):  # in the oldest archives
            kind = _FOLDER
        self.size = 0 if kind in _ODD else self.size
        self.data = stream.tell()
        self.following = self.data + _padded(self.size)
        if kind == _SPARSE or any(key.startswith(b"GNU.sparse.") for key in records):
            self.odd = "a sparse file"
        else:
            self.odd = _ODD.get(kind, "" if kind in _REGULAR else "of an unknown kind")

    def _block(self, end_mark: bool) -> bytes:
        """The next header; b"" at the end of the archive."""
        block = self.stream.read(BLOCK)
        if not block and not end_mark:
            return b""
        if not block:
            raise TarDamage("it ends without an end mark")
        if len(block) < BLOCK:
            raise TarDamage("it ends early")
        if not block.strip(b"\0"):
            return b""
        summed = block[:148] + block[156:]
        off = sum(summed) + 256 - _number(block[148:156])
        if off and off != 256 * sum(byte > 127 for byte in summed):  # old programs had signed bytes
            raise TarDamage("a header's checksum is wrong")
        return block

    def _content(self, size: int) -> bytes:
        """What an extended header holds."""
        padded = _padded(size)
        self.spent += BLOCK + padded
        if self.spent > LONGEST:
            raise TarDamage(f"a member's description has more than {LONGEST} bytes")
        content = self.stream.read(padded)
        if len(content) < padded:
            raise TarDamage("it ends early")
        return content[:size]


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _number(field: bytes) -> int:
    """Octal digits, or binary behind a byte of 0x80; 0xff marks a negative one."""
    if field[0] & 0x80:
        number = int.from_bytes(field[1:]) if field[0] == 0x80 else -1
    else:
        digits = field.partition(b"\0")[0].strip(b" ")
        number = int(digits or b"0", 8) if re.fullmatch(rb"[0-7]*", digits) else -1
    if not 0 <= number <= LARGEST:
        raise TarDamage("a header's number is none, negative, or far too large")
    return number


def _size(digits: bytes) -> int:
    if not re.fullmatch(rb"[0-9]{1,18}", digits):
        raise TarDamage(f"a member's size is {digits[:40].decode('ascii', 'backslashreplace')!r}")
    return int(digits)


def _name(block: bytes) -> bytes:
    name, prefix = block[:100].partition(b"\0")[0], block[345:500].partition(b"\0")[0]
    gnu = block[257:265] == b"ustar  \0"  # has other fields there
    return name if gnu or not prefix else prefix + b"/" + name


def _records(content: bytes) -> dict[bytes, bytes]:
    """The records of a PAX header, `<length> <key>=<value>\\n`."""
    records, place = {}, 0
    while content[place : place + 1] not in (b"", b"\0"):
        digits = content[place : place + 8].partition(b" ")[0]
        length = int(digits) if re.fullmatch(rb"[0-9]{1,7}", digits) else 0
        key, equals, value = content[place + len(digits) + 1 : place + length - 1].partition(b"=")
        if not equals or content[place + length - 1 : place + length] != b"\n":
            raise TarDamage("a PAX record is damaged")
        records[key] = value
        place += length
    return records
