import contextlib
import dataclasses
import functools
import gzip
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import mirror
from tests.support.project import environment
from v4d import config
from v4d.datasets import open_source
from v4d.datasets.archives import check_archive, read_members
from v4d.datasets.download import ranges as transfer
from v4d.datasets.download.checksums import digest
from v4d.datasets.download.fetch import fetch
from v4d.datasets.download.http import RetryPolicy, TransientError, probe, read_text
from v4d.datasets.kinetics_archives import download_archive
from v4d.datasets.lockfile import LockEntry, LockFile
from v4d.errors import V4DError

HASTE = RetryPolicy(first=0.01, cap=0.02, attempts=4, stall=10, least_rate=1000)
IMPATIENT = dataclasses.replace(HASTE, stall=0.3)


@pytest.fixture(autouse=True)
def watchdog():
    with mirror.watchdog(60):
        yield


@pytest.fixture(autouse=True)
def small_segments(monkeypatch):
    monkeypatch.setattr(transfer, "SEGMENT", 20_000)


@pytest.fixture
def good() -> bytes:
    """An archive of about 100 kB."""
    dice = random.Random(3)
    members = [(f"v{n}_000000_000010.mp4", dice.randbytes(10_000)) for n in range(10)]
    return mirror.archive(members)


@pytest.fixture
def served(tmp_path, good):
    (tmp_path / "root").mkdir()
    (tmp_path / "root/x.tar.gz").write_bytes(good)
    with mirror.Mirror(tmp_path / "root") as server:
        yield server


def bring(served: mirror.Mirror, folder: Path, **options) -> bytes:
    target = folder / "got" / "x.tar.gz"
    fetch(f"{served.url}/x.tar.gz", target, check=check_archive, **({"patience": HASTE} | options))
    assert [path.name for path in target.parent.iterdir() if path.suffix != ".lock"] == ["x.tar.gz"]
    return target.read_bytes()


def nothing_that_looks_finished(folder: Path) -> bool:
    return not any(not path.name.startswith(".") for path in (folder / "got").iterdir())


# What a server does

PASSING = {
    "nothing": [],
    "503s": [mirror.status(503), mirror.status(503), mirror.status(500)],
    "503 with Retry-After": [mirror.status(503, retry_after=1)],
    "429 between": [mirror.cut(None), mirror.status(429)],
    "cut in the first range": [mirror.cut(None), mirror.cut(7_001)],
    "cut each time at another byte": [mirror.cut(None)]
    + [mirror.cut(n) for n in (1, 4_999, 17, 12_345, 0, 3)],
    "cut before the first byte": [mirror.cut(0)],
    "more announced than comes": [mirror.wrong_length(+500), mirror.without_ranges],
    "less announced than there is": [mirror.wrong_length(-500), mirror.wrong_length(-500)],
    "no ranges": [mirror.without_ranges] * 2,
    "no ranges, and cut": [mirror.without_ranges]
    + [mirror.without_ranges_cut(50_000)] * 3
    + [mirror.without_ranges],
    "ranges no more": [mirror.cut(None), mirror.cut(5_000), mirror.without_ranges],
    "a stall": [mirror.cut(None), mirror.stall(after=1), mirror.stall(after=2)],
    "a redirect": [mirror.redirect] * 2,
    "a web page": [mirror.web_page, mirror.web_page],
    "a web page that says it is gzip": [mirror.web_page_in_disguise] * 2,
}


@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize("fault", PASSING)
def test_what_passes_ends_with_the_right_bytes(served, tmp_path, good, fault, connections):
    served.faults["/x.tar.gz"] = list(PASSING[fault])
    patience = IMPATIENT if fault == "a stall" else HASTE
    assert bring(served, tmp_path, connections=connections, patience=patience) == good
    assert not served.faults["/x.tar.gz"]


LASTING = {
    "503s": (mirror.status(503), r"503 .*\(4 tries\)"),
    "404": (mirror.status(404), "404"),
    "403": (mirror.status(403), "403"),
    "a connection that always breaks": (mirror.cut(0), "4 tries"),
    "no ranges, and always cut": (mirror.without_ranges_cut(50_000), "ended early|IncompleteRead|bytes read"),
    "a web page": (mirror.web_page, "web page"),
    "a web page that says it is gzip": (mirror.web_page_in_disguise, "web page, not an archive"),
    "never all of it": (mirror.wrong_length(-500), "truncated"),
    "a stall": (mirror.stall(after=0), "4 tries"),
    "a redirect in a circle": (lambda handler, data: circle(handler), "redirect"),
}


def circle(handler: mirror.Handler) -> None:
    handler.send_response(302)
    handler.send_header("Location", handler.path)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


@pytest.mark.parametrize("fault", LASTING)
def test_what_lasts_ends_with_one_clear_error_and_nothing_that_looks_finished(served, tmp_path, fault):
    served.always["/x.tar.gz"], words = LASTING[fault]
    with pytest.raises(V4DError, match=words) as error:
        bring(served, tmp_path, connections=2, patience=IMPATIENT if fault == "a stall" else HASTE)
    assert "/x.tar.gz" in str(error.value) and "\n" not in str(error.value)
    assert nothing_that_looks_finished(tmp_path)


def endless(handler: mirror.Handler, data: bytes) -> None:
    """No length, and no end."""
    handler.send_response(200)
    handler.send_header("Content-Type", "text/plain")
    handler.send_header("Connection", "close")
    handler.end_headers()
    while not handler.server.mirror.closing.is_set():
        handler.wfile.write(bytes(1 << 16))


@functools.cache
def packed_zeros() -> bytes:
    return gzip.compress(bytes(64 << 20))


def bomb(handler: mirror.Handler, data: bytes) -> None:
    """64 MB in 64 kB."""
    handler.serve(packed_zeros(), ranges=False, extra={"Content-Encoding": "gzip"})


@pytest.mark.parametrize("fault", [endless, bomb])
def test_a_list_without_end_is_given_up_within_little_memory(served, fault):
    served.always["/x.tar.gz"] = fault
    packed_zeros()  # this process is the server, too
    tracemalloc.start()
    with pytest.raises(V4DError, match="more than 1048576 bytes came"):
        read_text(f"{served.url}/x.tar.gz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


def test_a_file_without_end_is_given_up_at_its_limit(served, tmp_path):
    served.always["/x.tar.gz"] = endless
    with pytest.raises(V4DError, match="1000000 bytes came and no end"):
        bring(served, tmp_path, limit=1_000_000)
    assert nothing_that_looks_finished(tmp_path)
    served.always["/x.tar.gz"] = mirror.promise(1_000_001)
    with pytest.raises(V4DError, match="1000001 bytes are announced, more than 1000000"):
        bring(served, tmp_path, limit=1_000_000)


@settings(max_examples=60, deadline=None)
@given(
    st.text(st.characters(max_codepoint=255, exclude_categories=["Cc"]), max_size=30) | st.just("9" * 5000)
)
def test_whatever_headers_say_it_is_an_answer_or_one_line(text):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "x.tar.gz").write_bytes(b"content")
        with mirror.Mirror(Path(folder)) as server:

            def odd(handler: mirror.Handler, data: bytes) -> None:
                handler.send_response(206)
                handler.send_header("Content-Range", f"bytes 0-0/{text}")
                handler.send_header("ETag", text)
                handler.send_header("Content-Length", "1")
                handler.end_headers()
                handler.wfile.write(b"c")

            def busy(handler: mirror.Handler, data: bytes) -> None:
                handler.send_response(503)
                handler.send_header("Retry-After", text)
                handler.send_header("Content-Length", "0")
                handler.end_headers()

            server.faults["/x.tar.gz"] = [odd, busy]
            with contextlib.suppress(V4DError):
                probe(f"{server.url}/x.tar.gz")
            with pytest.raises(TransientError, match="503"):
                probe(f"{server.url}/x.tar.gz")


@pytest.mark.parametrize("count", ["1", "10000", "99999", "100000", "9" * 5000])
def test_an_etag_of_any_number_of_parts_takes_no_time_that_shows(tmp_path, count):
    (tmp_path / "a").write_bytes(bytes(1 << 20))
    assert digest(tmp_path / "a", f"{'0' * 32}-{count}").etag_fits in (None, False)


def test_a_server_that_is_not_there(tmp_path):
    with mirror.Mirror(tmp_path) as server:
        url = server.url
    with pytest.raises(V4DError, match="4 tries"):
        fetch(f"{url}/x", tmp_path / "x", patience=HASTE)


def test_a_slow_drip_is_slow_and_not_broken(served, tmp_path, good):
    served.always["/x.tar.gz"] = mirror.drip(0.02)
    assert bring(served, tmp_path, connections=3) == good


def test_a_drip_that_would_take_for_ever_is_given_up(served, tmp_path):
    served.always["/x.tar.gz"] = mirror.drip(0.2)
    demanding = RetryPolicy(first=0.01, cap=0.02, attempts=2, stall=0.3, least_rate=1e6)
    with pytest.raises(V4DError, match="bytes a second"):
        fetch(f"{served.url}/x.tar.gz", tmp_path / "got/x.tar.gz", patience=demanding)


# Going on


def test_a_later_run_goes_on_where_an_earlier_one_ended(served, tmp_path, good):
    served.faults["/x.tar.gz"] = [mirror.cut(None), mirror.cut(15_000), *[mirror.status(503)] * 3]
    with pytest.raises(V4DError):
        bring(served, tmp_path)
    served.requests.clear()
    assert bring(served, tmp_path) == good
    asked = [range_ for _, range_ in served.requests]
    assert asked[:2] == ["bytes=0-0", "bytes=15000-19999"]


def test_a_file_that_changed_in_between_is_fetched_anew(served, tmp_path, good):
    other = mirror.archive([("w_000000_000010.mp4", b"w" * 50_000)], plain=True)
    served.faults["/x.tar.gz"] = [mirror.cut(None), mirror.cut(15_000), *[mirror.status(503)] * 3]
    with pytest.raises(V4DError):
        bring(served, tmp_path)
    (tmp_path / "root/x.tar.gz").write_bytes(other)
    assert bring(served, tmp_path) == other


def test_a_file_that_changes_under_way_is_never_mixed(served, tmp_path):
    other = mirror.archive([("w_000000_000010.mp4", random.Random(1).randbytes(100_000))])

    def swap(handler: mirror.Handler, data: bytes) -> None:
        (tmp_path / "root/x.tar.gz").write_bytes(other)
        handler.serve(other)

    served.faults["/x.tar.gz"] = [mirror.cut(None), mirror.cut(15_000), swap]
    assert bring(served, tmp_path) == other


def test_a_file_that_keeps_changing_is_an_error(served, tmp_path):
    dice = random.Random(1)

    def fault(handler: mirror.Handler, data: bytes) -> None:
        handler.serve(data, etag=f'"{dice.random()}"')

    served.always["/x.tar.gz"] = fault
    with pytest.raises(V4DError, match="keeps changing"):
        bring(served, tmp_path)


def test_all_connections_are_used_and_no_more(served, tmp_path, good):
    open_now, most, lock = set(), 0, threading.Lock()

    def fault(handler: mirror.Handler, data: bytes) -> None:
        first, last = map(int, handler.headers["Range"].removeprefix("bytes=").split("-"))
        pieces = iter(range(-(-(last + 1 - first) // 2000), 0, -1))

        def pace() -> None:
            nonlocal most
            with lock:
                if last > first:  # of the first request only the headers are read
                    open_now.add(handler)
                most = max(most, len(open_now))
            time.sleep(0.01)
            if next(pieces) == 1:  # with the last piece the client may go on to its next range
                with lock:
                    open_now.discard(handler)

        handler.serve(data, pace=pace)

    served.always["/x.tar.gz"] = fault
    assert bring(served, tmp_path, connections=3) == good
    assert most == 3


def test_the_rate_limit_holds_for_all_connections_together(served, tmp_path, good, monkeypatch):
    """By a clock that stands still: the last piece is due when all bytes are, at 100 kB a second."""
    waits = []

    class Event(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.append(timeout)
            return self.is_set()

    monkeypatch.setattr(transfer, "time", SimpleNamespace(monotonic=lambda: 0.0))
    monkeypatch.setattr(transfer, "threading", SimpleNamespace(**vars(threading) | {"Event": Event}))
    assert bring(served, tmp_path, connections=4, rate_limit=0.1) == good
    assert max(waits) == pytest.approx(len(good) / 1e5, rel=1e-3)


def test_a_file_too_large_for_the_disk_is_refused_before_it_is_begun(served, tmp_path):
    served.always["/x.tar.gz"] = mirror.promise(10**16)
    with pytest.raises(V4DError, match=r"too full: 10000000\.00 GB"):
        bring(served, tmp_path)
    assert nothing_that_looks_finished(tmp_path)
    assert len(served.requests) == 1


def test_two_processes_at_the_same_file_take_turns(served, tmp_path, good):
    served.always["/x.tar.gz"] = mirror.drip(0.005)
    target = tmp_path / "x.tar.gz"
    results = []

    def bring_and_read():
        fetch(f"{served.url}/x.tar.gz", target, check=check_archive, patience=HASTE)
        results.append(target.read_bytes())  # the other one is at work beside it, or has been

    workers = [threading.Thread(target=bring_and_read) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert results == [good, good]


@pytest.mark.slow
def test_killed_at_any_moment_the_download_goes_on(served, tmp_path, good):
    code = (
        "import sys; from pathlib import Path; from v4d.datasets.download import ranges as transfer\n"
        "from v4d.datasets.archives import check_archive; from v4d.datasets.download.fetch import fetch\n"
        "transfer.SEGMENT, transfer._JOURNAL_SECONDS = 20_000, 0.05; print('ready', flush=True)\n"
        "fetch(sys.argv[1], Path(sys.argv[2]), connections=2, check=check_archive)"
    )
    target = tmp_path / "got/x.tar.gz"
    served.always["/x.tar.gz"] = mirror.drip(0.04)
    command = [sys.executable, "-c", code, f"{served.url}/x.tar.gz", str(target)]
    dice, brought = random.Random(11), 0
    for _ in range(10):
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment()
        )
        assert child.stdout.readline() == b"ready\n"
        try:
            child.wait(dice.uniform(0, 0.4))
        except subprocess.TimeoutExpired:
            os.kill(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
        brought += target.exists()
        assert not target.exists() or target.read_bytes() == good
    fetch(f"{served.url}/x.tar.gz", target, patience=HASTE, check=check_archive)
    assert target.read_bytes() == good
    # It went on and did not begin anew: ten beginnings would have asked for the first byte ten times.
    first = [
        range_ for _, range_ in served.requests if range_.startswith("bytes=0-") and range_ != "bytes=0-0"
    ]
    assert brought or len(first) < 8


# ETags


def multipart_etag(data: bytes, length: int) -> str:
    """The MD5 of the parts' MD5s, and their number."""
    parts = [data[start : start + length] for start in range(0, len(data), length)]
    whole = hashlib.md5(b"".join(hashlib.md5(part).digest() for part in parts))
    return f"{whole.hexdigest()}-{len(parts)}"


@given(data=st.binary(min_size=1, max_size=3000), count=st.integers(1, 50))
def test_the_etag_of_equal_parts_is_recognised(tmp_path_factory, data, count):
    path = tmp_path_factory.mktemp("etag") / "x"
    path.write_bytes(data)
    length = -(-len(data) // count)
    assert digest(path, multipart_etag(data, length)).etag_fits is True


@pytest.mark.parametrize("part_mib", [5, 8, 16])
def test_the_etag_of_an_upload_in_parts_is_recognised(tmp_path, part_mib):
    data = random.Random(part_mib).randbytes(20 << 20)
    (tmp_path / "x").write_bytes(data)
    etag = multipart_etag(data, part_mib << 20)
    assert digest(tmp_path / "x", f'"{etag}"').etag_fits is True
    (tmp_path / "x").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert digest(tmp_path / "x", f'"{etag}"').etag_fits is None  # parts of another size, or other data


def test_content_that_does_not_fit_an_etag_of_s3_is_fetched_again_and_then_refused(served, tmp_path, good):
    right, wrong = hashlib.md5(good).hexdigest(), hashlib.md5(b"other").hexdigest()
    served.always["/x.tar.gz"] = mirror.amazon(f'"{right}"')
    assert bring(served, tmp_path) == good
    shutil.rmtree(tmp_path / "got")
    served.always["/x.tar.gz"] = mirror.amazon(f'"{wrong}"')
    with pytest.raises(V4DError, match="does not fit its ETag"):
        bring(served, tmp_path)
    assert nothing_that_looks_finished(tmp_path)


def test_an_archive_that_is_truncated_at_its_source_is_not_fetched_twice(served, tmp_path, good):
    (tmp_path / "root/x.tar.gz").write_bytes(good[:-3_000])
    with pytest.raises(V4DError, match=r"x\.tar\.gz is a damaged or truncated archive"):
        bring(served, tmp_path)
    assert sum(range_ == "bytes=0-0" for _, range_ in served.requests) == 1


# The command's work: parts, lists, replacements, the lock


@pytest.fixture(scope="module")
def layout(tmp_path_factory) -> mirror.Layout:
    return mirror.build_layout(tmp_path_factory.mktemp("layout"), {"train": 2, "val": 1}, videos=8)


def dataset_of(base: str, **kinetics) -> config.DatasetConfig:
    kinetics = {"base_url": base, "parts": {"train": 2, "val": 1}, "class_count": None, **kinetics}
    document = {"name": "k", "dataset": {"name": "k", "source": "kinetics", "kinetics": kinetics}}
    if limit := kinetics.pop("limit", None):
        document["dataset"]["limit"] = limit
    return config.build(config.resolve(document)).dataset


@pytest.fixture
def at(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def served_part(layout: mirror.Layout, split: str, part: str) -> bytes:
    return (layout.root / f"400/{split}/{part}.tar.gz").read_bytes()


@pytest.mark.parametrize("kind", ["http", "file"])
def test_archives_and_replacements_come_and_are_locked(at, layout, kind):
    with mirror.Mirror(layout.root) as server:
        dataset = dataset_of(server.url if kind == "http" else layout.root.as_uri())
        for split, part in [("train", "part_0"), ("train", "part_1"), ("val", "part_0")]:
            path = download_archive(dataset, split, part, HASTE)
            assert path == Path(f"data/k/archives/{split}/{part}.tar.gz")
            assert path.read_bytes() == served_part(layout, split, part)
    assert check_archive(Path("data/k/archives/train/replacements.tar")) == len(layout.replaced)
    assert not Path("data/k/archives/val/replacements.tar").exists()
    lock = json.loads(Path("data/k/archives.lock.json").read_text())
    content = served_part(layout, "val", "part_0")
    entry = lock["val/part_0.tar.gz"]
    assert (entry["size"], entry["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert open_source(dataset).verify_archives() == []


def texts_below(folder: Path) -> str:
    return "\n".join(path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file())


def test_a_mirror_s_password_is_sent_to_it_and_stands_nowhere_else(at, layout, capfd):
    part = "/400/val/part_0.tar.gz"
    with mirror.Mirror(layout.root, login="me:se@cret") as server:
        dataset = dataset_of(server.url.replace("//", "//me:se%40cret@"))
        server.faults[part] = [mirror.status(503), mirror.cut(1000)]
        path = download_archive(dataset, "val", "part_0", HASTE)
        server.always["/400/train/part_0.tar.gz"] = mirror.status(404)
        with pytest.raises(V4DError, match="404") as refused:
            download_archive(dataset, "train", "part_0", HASTE)
    path.unlink()
    said = capfd.readouterr()
    everything = "\n".join([texts_below(at), said.out, said.err, str(refused.value)])
    assert f"{server.url}/400/val/part_0.tar.gz" in everything and "503" in said.err
    assert "cret" not in everything


def test_an_older_lock_file_s_password_goes_when_it_is_written(at):
    lock = LockFile(Path("lock.json"))
    Path("lock.json").write_text(
        json.dumps({"a": {"size": 1, "sha256": "x", "etag": "", "url": "https://me:secret@host/a"}})
    )
    assert lock.get("a").url == "https://host/a"
    lock.record("b", LockEntry(2, "y"))
    assert "secret" not in Path("lock.json").read_text()


def test_verify_finds_what_was_touched(at, layout):
    dataset = dataset_of(layout.root.as_uri())
    path = download_archive(dataset, "val", "part_0", HASTE)
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    shutil.copy(path, path.with_name("part_7.tar.gz"))
    problems = open_source(dataset).verify_archives()
    assert len(problems) == 2
    assert "part_0.tar.gz: its sha256" in problems[0] and "part_7.tar.gz: not in" in problems[1]


def test_another_archive_than_the_locked_one_is_refused(at, layout):
    dataset = dataset_of(layout.root.as_uri())
    path = download_archive(dataset, "val", "part_0", HASTE)
    lock = LockFile(dataset.paths.lock)
    path.unlink()
    document = json.loads(lock.path.read_text())
    document["val/part_0.tar.gz"]["sha256"] = "0" * 64
    lock.path.write_text(json.dumps(document))
    with pytest.raises(V4DError, match=r"val/part_0\.tar\.gz is not what it was"):
        download_archive(dataset, "val", "part_0", HASTE)
    assert not path.exists()


def test_an_archive_that_is_there_is_not_fetched_again(at, layout):
    with mirror.Mirror(layout.root) as server:
        dataset = dataset_of(server.url, use_replacements=False)
        path = download_archive(dataset, "train", "part_0", HASTE)
        server.requests.clear()
        download_archive(dataset, "train", "part_0", HASTE)
        assert not [p for p, _ in server.requests if p.endswith(".tar.gz")]
        path.write_bytes(path.read_bytes()[:-50])  # not the locked one any more
        download_archive(dataset, "train", "part_0", HASTE)
    assert path.read_bytes() == served_part(layout, "train", "part_0")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["part_0", "part_1", "part_2"], r"1 are new \(part_2\.tar\.gz\)"),
        (["part_0"], r"1 are not there any more \(part_1\.tar\.gz\)"),
    ],
)
def test_a_list_that_differs_from_the_config_says_what_changed(at, layout, lines, words):
    (at / "copy").mkdir()
    shutil.copytree(layout.root / "400", at / "copy/400")
    text = "".join(f"https://example.org/{line}.tar.gz\n" for line in lines)
    (at / "copy/400/train/k400_train_path.txt").write_text(text)
    with pytest.raises(V4DError, match=words):
        download_archive(dataset_of((at / "copy").as_uri()), "train", "part_0", HASTE)
    assert not Path("data/k/archives").exists()


def test_an_archive_that_is_given_up_is_an_archive_of_nothing(at, layout):
    (at / "copy").mkdir()
    shutil.copytree(layout.root / "400", at / "copy/400")
    (at / "copy/400/train/part_1.tar.gz").unlink()
    (at / "copy/400/train/k400_train_path.txt").write_text("https://example.org/part_0.tar.gz\n")
    dataset = dataset_of((at / "copy").as_uri(), give_up=["train/part_1"])
    download_archive(dataset, "train", "part_0", HASTE)
    path = download_archive(dataset, "train", "part_1", HASTE)
    assert list(read_members(path, lambda *video: True)) == []
    assert open_source(dataset).verify_archives() == []
    assert "train/part_1.tar.gz" not in LockFile(dataset.paths.lock).entries()
    shutil.copy(layout.root / "400/train/part_1.tar.gz", at / "copy/400/train/part_1.tar.gz")
    shutil.copy(layout.root / "400/train/k400_train_path.txt", at / "copy/400/train/k400_train_path.txt")
    dataset = dataset_of((at / "copy").as_uri())  # it is there again, and wanted again
    whole = download_archive(dataset, "train", "part_1", HASTE)
    assert whole.read_bytes() == (layout.root / "400/train/part_1.tar.gz").read_bytes()


@pytest.mark.parametrize(
    "entry", ["train/part_2", "val/part_01", "test/part_0", "train/part_0.tar.gz", "part_0"]
)
def test_a_part_that_there_is_not_cannot_be_given_up(entry):
    with pytest.raises(V4DError, match=r"dataset\.kinetics\.give_up"):
        dataset_of("file:///m", give_up=[entry])
    dataset_of("file:///m", give_up=["train/part_1", "val/youtube"])


@pytest.mark.parametrize("fault", ["gone", "truncated"])
def test_an_archive_that_cannot_be_had_says_how_to_do_without_it(at, layout, fault):
    shutil.copytree(layout.root / "400", at / "copy/400")
    path = at / "copy/400/train/part_1.tar.gz"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    if fault == "gone":
        path.unlink()
    with mirror.Mirror(at / "copy") as server, pytest.raises(V4DError) as error:
        download_archive(dataset_of(server.url), "train", "part_1", HASTE)
    assert "dataset.kinetics.give_up: [train/part_1]" in str(error.value)
    assert not Path("data/k/archives/train/part_1.tar.gz").exists()


def test_a_trial_run_may_take_fewer_archives_than_there_are(at, layout):
    dataset = dataset_of(layout.root.as_uri(), parts={"train": 1, "val": 1}, limit=2)
    assert download_archive(dataset, "train", "part_0", HASTE).exists()


def test_a_list_that_cannot_be_had_is_no_obstacle(at, layout, capsys):
    with mirror.Mirror(layout.root) as server:
        server.always["/400/val/k400_val_path.txt"] = mirror.web_page
        assert download_archive(dataset_of(server.url), "val", "part_0", HASTE).exists()
    assert "list of archives cannot be had" in capsys.readouterr().err


@pytest.mark.parametrize(("split", "part"), [("train", "part_2"), ("val", "../part_0"), ("test", "part_0")])
def test_a_part_that_does_not_exist(at, layout, split, part):
    with pytest.raises(V4DError, match=r"no part|no split"):
        open_source(dataset_of(layout.root.as_uri())).download(split, part)


def test_the_lock_is_written_by_several_processes_at_once(tmp_path):
    lock = LockFile(tmp_path / "archives.lock.json")
    workers = [
        threading.Thread(target=lock.record, args=(f"train/part_{n}.tar.gz", LockEntry(n, "0" * 64)))
        for n in range(20)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(lock.entries()) == 20
