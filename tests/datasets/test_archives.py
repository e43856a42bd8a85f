import gzip
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import mirror
from v4d.datasets.archives import ArchiveError, check_archive, parse_name, read_members
from v4d.datasets.replacements import Replacements, repack
from v4d.errors import V4DError

VIDEOS = {"-a_b": b"first" * 300, "c__d": b"second" * 2000, "e-f-": b"third" * 10}


@pytest.fixture(autouse=True)
def watchdog():
    with mirror.watchdog(60):
        yield


def members_of(path: Path, wanted=lambda video_id, span: True) -> dict[str, bytes]:
    return {member.video_id: member.read() for member in read_members(path, wanted)}


def named(videos: dict[str, bytes]) -> list[tuple[str, bytes]]:
    return [(f"{video_id}_000001_000011.mp4", data) for video_id, data in videos.items()]


def tar_of(*infos: tarfile.TarInfo) -> bytes:
    """A plain tar of members as given; regular ones hold zeros."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for info in infos:
            archive.addfile(info, io.BytesIO(bytes(info.size)) if info.isreg() else None)
    return buffer.getvalue()


def info(name: str, kind: bytes = tarfile.REGTYPE, size: int = 8, target: str = "") -> tarfile.TarInfo:
    result = tarfile.TarInfo(name)
    result.type, result.linkname = kind, target
    result.size = size if kind == tarfile.REGTYPE else 0
    return result


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("folder", ["", "train/", "./a/very/deep/path/of/some/machine/" * 5])
def test_gzip_or_not_is_told_by_content_and_paths_are_flattened(tmp_path, plain, folder):
    mirror.write(tmp_path / "x.tar.gz", mirror.archive(named(VIDEOS), plain=plain, folder=folder))
    assert members_of(tmp_path / "x.tar.gz") == VIDEOS
    assert check_archive(tmp_path / "x.tar.gz") == 3


@pytest.mark.parametrize(
    ("name", "video_id", "span"),
    [
        ("-x_y_000012_000022.mp4", "-x_y", (12, 22)),
        ("a/b/__________a_000000_000010.mp4", "__________a", (0, 10)),
        ("train_00001.mp4", "train_00001", None),
        ("C:\\videos\\abc_000001_000002.mkv", "abc", (1, 2)),
    ],
)
def test_names(name, video_id, span):
    assert parse_name(name) == (video_id, span)


@given(
    video_id=st.text("ABCabc019-_", min_size=11, max_size=11),
    start=st.integers(0, 999_989),
    folder=st.sampled_from(["", "val/", "a.b/c_000001_000002/"]),
)
def test_any_id_survives_its_file_name(video_id, start, folder):
    name = f"{folder}{video_id}_{start:06d}_{start + 10:06d}.mp4"
    assert parse_name(name) == (video_id, (start, start + 10))


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (info("../../x.mp4"), "leaves its folder"),
        (info("a/../../x.mp4"), "leaves its folder"),
        (info("/etc/x.mp4"), "leaves its folder"),
        (info("..\\..\\x.mp4"), "leaves its folder"),
        (info("x.mp4", tarfile.SYMTYPE, target="/etc/passwd"), "link"),
        (info("x.mp4", tarfile.LNKTYPE, target="good.mp4"), "link"),
        (info("x.mp4", tarfile.CHRTYPE), "no regular file"),
        (info("x.mp4", tarfile.FIFOTYPE), "no regular file"),
    ],
)
def test_members_that_climb_out_or_are_no_files_are_refused_and_the_others_read(tmp_path, member, reason):
    (tmp_path / "x.tar").write_bytes(tar_of(info("good.mp4"), member, info("also.mp4")))
    found = {m.video_id: (m.read(), m.refused) for m in read_members(tmp_path / "x.tar", lambda *_: True)}
    assert set(found) == {"good", "x", "also"}
    assert reason in found["x"][1]
    assert found["good"] == found["also"] == (bytes(8), "")


def test_what_is_no_video_is_passed_over(tmp_path):
    others = [info("list.txt"), info("._a.mp4"), info("folder.mp4", tarfile.DIRTYPE)]
    (tmp_path / "x.tar").write_bytes(tar_of(*others, info("a.MP4")))
    assert list(members_of(tmp_path / "x.tar")) == ["a"]


def test_only_what_is_wanted_is_read(tmp_path):
    mirror.write(tmp_path / "x.tar.gz", mirror.archive(named(VIDEOS)))
    assert list(members_of(tmp_path / "x.tar.gz", lambda video_id, span: video_id == "c__d")) == ["c__d"]
    assert members_of(tmp_path / "x.tar.gz", lambda video_id, span: span != (1, 11)) == {}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\x00" * 100, "not an archive"),
        (b"PK\x03\x04" + bytes(1000), "not an archive"),
        (gzip.compress(b"no tar" * 200, mtime=0), "damaged"),
        (tar_of(), "holds no videos"),
    ],
)
def test_what_is_no_archive_is_called_by_its_name(tmp_path, content, words):
    (tmp_path / "x.tar.gz").write_bytes(content)
    with pytest.raises(ArchiveError, match=words):
        check_archive(tmp_path / "x.tar.gz")


def test_an_archive_that_is_not_there(tmp_path):
    with pytest.raises(ArchiveError, match="no such archive"):
        members_of(tmp_path / "x.tar.gz")


@settings(max_examples=150, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_gzip_archive_never_passes(tmp_path_factory, share):
    path = tmp_path_factory.getbasetemp() / "cut.tar.gz"
    data = mirror.archive(named(VIDEOS))
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ArchiveError):
        check_archive(path)


@settings(max_examples=150, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_plain_archive_never_passes_unless_only_padding_is_gone(tmp_path_factory, share):
    path = tmp_path_factory.getbasetemp() / "cut.tar"
    data = mirror.archive(named(VIDEOS), plain=True)
    whole = len(data.rstrip(b"\0")) // 512 * 512 + 1024  # the last block of data and one of zeros
    length = int(share * len(data))
    path.write_bytes(data[:length])
    if length < whole:
        with pytest.raises(ArchiveError):
            check_archive(path)
    else:
        assert check_archive(path) == 3


def test_a_plain_archive_cut_between_two_members_is_truncated(tmp_path):
    data = tar_of(info("a.mp4"), info("b.mp4"), info("c.mp4"))
    (tmp_path / "x.tar").write_bytes(data[:2048])  # two members, to the byte
    with pytest.raises(ArchiveError, match="truncated"):
        check_archive(tmp_path / "x.tar")
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(data[:2048], mtime=0))  # whole by gzip's own checksum
    assert check_archive(tmp_path / "x.tar.gz") == 2


def test_a_plain_archive_with_a_hole_is_damaged(tmp_path):
    data = bytearray(tar_of(info("a.mp4"), info("b.mp4"), info("c.mp4")))
    data[1024:2048] = bytes(1024)  # where b.mp4 was
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(ArchiveError, match="behind its end mark"):
        check_archive(tmp_path / "x.tar")


@settings(max_examples=200, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_in_a_gzip_archive_is_found_or_harmless(tmp_path_factory, share, bit):
    path = tmp_path_factory.getbasetemp() / "flipped.tar.gz"
    data = bytearray(mirror.archive(named(VIDEOS)))
    data[int(share * len(data))] ^= 1 << bit
    path.write_bytes(data)
    try:
        found = members_of(path)
    except ArchiveError:
        return
    assert found == VIDEOS


def test_replacements_are_repacked_once_and_read_by_id(tmp_path):
    members = [*named(VIDEOS), *named({"c__d": b"a second one"})]
    mirror.write(tmp_path / "r.tgz", mirror.archive(members, folder="replacement_for_corrupted_k400/"))
    assert repack(tmp_path / "r.tgz", tmp_path / "r.tar") == 3
    replacements = Replacements(tmp_path / "r.tar")
    assert {name: replacements.get(name).read() for name in VIDEOS} == VIDEOS
    assert replacements.get("unknown") is None


def test_replacements_that_are_not_there_say_what_to_do(tmp_path):
    with pytest.raises(V4DError, match="use_replacements"):
        Replacements(tmp_path / "r.tar")
