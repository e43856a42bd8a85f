"""Archives that somebody made to do harm, or that a fault has changed: an error or a row, never more."""

import contextlib
import gzip
import io
import string
import tarfile
import tracemalloc
from pathlib import Path

import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from v4d.datasets.archives import ArchiveError, check_archive, read_members
from v4d.datasets.base import archive_videos
from v4d.datasets.tar import BLOCK, LONGEST, TarDamage, tar_members

END = bytes(2 * BLOCK)
GIB = 1 << 30


def header(name: bytes = b"a.mp4", kind: bytes = b"0", size: int | bytes = 0, tail: bytes = b"") -> bytes:
    """A header with a right checksum; `size` as it is where it is bytes, `tail` from byte 345 on."""
    digits = size if isinstance(size, bytes) else b"%011o\0" % size
    fields = (
        name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + digits.ljust(12, b"\0") + b"0" * 11 + b"\0"
    )
    fields += b" " * 8 + kind + bytes(100) + b"ustar\00000"
    block = bytearray(fields.ljust(345, b"\0") + tail.ljust(167, b"\0"))
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def filled(content: bytes) -> bytes:
    return content + bytes(-len(content) % BLOCK)


def extended(kind: bytes, content: bytes) -> bytes:
    return header(b"extended", kind, len(content)) + filled(content)


def records(**values: bytes) -> bytes:
    """The records of a PAX header; `__` in a key is a dot."""
    made = b""
    for key, value in values.items():
        record = b" " + key.replace("__", ".").encode() + b"=" + value + b"\n"
        length = next(n for n in range(len(record), len(record) + 9) if n == len(record) + len(str(n)))
        made += str(length).encode() + record
    return made


def binary(number: int) -> bytes:
    """A number as GNU tar writes large and negative ones."""
    return (b"\xff" if number < 0 else b"\x80") + number.to_bytes(11, signed=True)


GOOD = header(b"good.mp4", size=4) + filled(b"good")
OLD_SPARSE = bytes(41) + b"00000000000\0" * 8 + b"\1" + b"20000000000\0"
"""From byte 345 of an old GNU sparse header: 2 GiB, and more of the map to come."""

DAMAGED = {
    "negative size": header(size=binary(-1024)) + GOOD,
    "negative octal size": header(size=b"-0000000777\0") + GOOD,
    "negative PAX size": extended(b"x", records(size=b"-512")) + header() + GOOD,
    "negative long name": header(kind=b"L", size=binary(-512)) + GOOD,
    "size beyond all files": header(size=binary(1 << 80)) + GOOD,
    "PAX size of 5,000 digits": extended(b"x", records(size=b"9" * 5000)) + header() + GOOD,
    "size that is no number": header(size=b"12x4\0") + GOOD,
    "1,500 long names": extended(b"L", b"name") * 1500 + GOOD,
    "1,500 PAX headers": extended(b"x", records(path=b"name")) * 1500 + GOOD,
    "1,500 global headers": extended(b"g", records(comment=b"name")) * 1500 + GOOD,
    "long name of 2 GiB": header(kind=b"L", size=2 * GIB) + bytes(4 * BLOCK),
    "link of 2 GiB": header(kind=b"K", size=2 * GIB) + bytes(4 * BLOCK),
    "PAX header of 2 GiB": header(kind=b"x", size=2 * GIB) + bytes(4 * BLOCK),
    "global header of 2 GiB": header(kind=b"g", size=2 * GIB) + bytes(4 * BLOCK),
    "endless sparse map": header(kind=b"S", tail=OLD_SPARSE) + b"\1" * (2 * LONGEST),
    "record without length": extended(b"x", b"path=a\n") + GOOD,
    "record of length 0": extended(b"x", b"0 path=a\n") + GOOD,
    "record of length 1": extended(b"x", b"1 " * 1000 + b"=") + GOOD,
    "record of 10,000 digits": extended(b"x", b"9" * 10_000 + b" path=a\n") + GOOD,
    "record that is too long": extended(b"x", b"99 path=a\n") + GOOD,
    "description of nothing": GOOD + extended(b"L", b"name") + END,
}
ODD = {
    "old sparse": header(kind=b"S", size=4, tail=OLD_SPARSE) + bytes(BLOCK) + filled(b"data"),
    "sparse 0.0": extended(b"x", records(GNU__sparse__size=b"2147483648", GNU__sparse__offset=b"x"))
    + header(),
    "sparse 0.1": extended(b"x", records(GNU__sparse__map=b"1,x,,-4")) + header(size=4) + filled(b"data"),
    "sparse 1.0": extended(
        b"x",
        records(
            GNU__sparse__major=b"1",
            GNU__sparse__minor=b"0",
            GNU__sparse__name=b"a.mp4",
            GNU__sparse__realsize=b"2147483648",
        ),
    )
    + header(b"x", size=BLOCK)
    + filled(b"no number\n"),
    "name that is no text": header(b"../\xff\xfe/a.mp4"),
    "PAX name that is no text": extended(b"x", records(path=b"/\xff\n\x1b/a.mp4")) + header(),
    "long name that leaves": extended(b"L", b"../" * 100_000 + b"a.mp4\0") + header(),
    "link": header(kind=b"2", size=GIB),
    "socket or worse": header(kind=b"Z", size=4) + filled(b"data"),
}


def outcome(path: Path) -> tuple[object, object]:
    """What download's check and clips' reading say of an archive."""
    found: list[object] = []
    for look in (
        check_archive,
        lambda path: [(m.video_id, m.read()) for m in read_members(path, lambda *_: True)],
    ):
        try:
            found.append(look(path))
        except ArchiveError as error:
            assert str(error).isprintable() and len(str(error)) < 700, str(error)
            found.append(ArchiveError)
    return found[0], found[1]


@contextlib.contextmanager
def little_memory(most: int = 8 << 20):
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", DAMAGED)
def test_what_does_not_add_up_is_one_line_for_download_and_clips(tmp_path, kind, packed):
    data = GOOD + DAMAGED[kind] + GOOD + END
    (tmp_path / "x.tar").write_bytes(gzip.compress(data) if packed else data)
    with little_memory():
        assert outcome(tmp_path / "x.tar") == (ArchiveError, ArchiveError)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ODD)
def test_an_odd_member_is_a_row_and_the_others_are_read(tmp_path, kind, packed):
    data = GOOD + ODD[kind] + header(b"last.mp4", size=4) + filled(b"last") + END
    (tmp_path / "x.tar").write_bytes(gzip.compress(data) if packed else data)
    expected = pandas.DataFrame(
        [(name, float("nan"), float("nan")) for name in ("good", "a", "last")],
        columns=["video_id", "time_start", "time_end"],
    )
    with little_memory():
        assert check_archive(tmp_path / "x.tar") == 3
        rows = {
            video.video_id: (video.source and video.source.read(), video.status, video.reason)
            for video in archive_videos(tmp_path / "x.tar", expected)
        }
    assert rows["good"] == (b"good", "", "") and rows["last"] == (b"last", "", "")
    source, status, reason = rows["a"]
    assert (source, status) == (None, "refused")
    assert reason.isprintable() and len(reason) < 300
    pandas.DataFrame({"reason": [reason]}).to_parquet(tmp_path / "ledger.parquet")


NAMES = st.text(string.ascii_letters + "é漢._-/ ", min_size=1, max_size=300).filter(lambda n: n.strip("/. "))
FORMATS = st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
KINDS = st.sampled_from(
    [tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE]
)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(FORMATS, st.lists(st.tuples(NAMES, KINDS, st.binary(max_size=1500)), max_size=6))
def test_what_python_writes_is_read_as_python_reads_it(form, members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, kind, data in members:
            # A name with a slash at its end is a folder's, in the oldest format.
            info = tarfile.TarInfo(name.rstrip("/") if kind == tarfile.AREGTYPE else name)
            info.type, info.linkname = kind, "target/" * 30 if form != tarfile.USTAR_FORMAT else "target"
            info.size = len(data) if kind in (tarfile.REGTYPE, tarfile.AREGTYPE) else 0
            with contextlib.suppress(ValueError):  # too long for USTAR
                archive.addfile(info, io.BytesIO(data))
    with tarfile.open(fileobj=io.BytesIO(buffer.getvalue())) as archive:
        theirs = [
            (i.name.rstrip("/"), i.isreg(), archive.extractfile(i).read() if i.isreg() else b"")
            for i in archive.getmembers()
        ]
    ours = [
        (member.name.rstrip("/"), not member.odd, member.read())
        for member in tar_members(io.BytesIO(buffer.getvalue()), end_mark=True)
    ]
    assert ours == theirs


PIECES = [
    *DAMAGED.values(),
    *ODD.values(),
    GOOD,
    END,
    extended(b"L", b"long.mp4\0"),
    extended(b"g", records(a=b"b")),
]


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.data(), st.booleans())
def test_whatever_is_in_an_archive_download_and_clips_agree(tmp_path_factory, data, packed):
    """Pieces of all kinds in any order, with some bytes changed and the checksums made right again."""
    content = bytearray(b"".join(data.draw(st.lists(st.sampled_from(PIECES), min_size=1, max_size=4))))
    for _ in range(data.draw(st.integers(0, 5))):
        content[data.draw(st.integers(0, min(len(content), 3000) - 1))] = data.draw(st.integers(0, 255))
    for start in range(0, min(len(content), 3000) - BLOCK + 1, BLOCK):
        if content[start + 257 : start + 262] == b"ustar":
            content[start + 148 : start + 156] = b" " * 8
            content[start + 148 : start + 156] = b"%06o\0 " % sum(content[start : start + BLOCK])
    path = tmp_path_factory.getbasetemp() / "made.tar"
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    with little_memory(16 << 20):
        checked, read = outcome(path)
    assert (checked is ArchiveError) == (read is ArchiveError) or read == []


def test_a_member_is_read_whole_or_not_at_all():
    with pytest.raises(TarDamage, match="ends early"):
        [member.read() for member in tar_members(io.BytesIO(header(size=1000) + bytes(600)), end_mark=False)]


@pytest.mark.parametrize("end_mark", [False, True])
def test_an_archive_does_not_end_in_the_description_of_a_member(end_mark):
    with pytest.raises(TarDamage, match="ends in the description"):
        list(tar_members(io.BytesIO(GOOD + extended(b"L", b"name")), end_mark=end_mark))
