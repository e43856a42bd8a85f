"""A miniature copy of the public Kinetics layout, and a loopback server that serves it badly on demand.

`build_layout` writes the files; `Mirror` serves a folder with ranges, ETags and redirects. A fault is put
into `mirror.faults[path]`, a list that requests for that path use up one by one; `mirror.always[path]`
holds one that never ends.
"""

import base64
import contextlib
import faulthandler
import gzip
import hashlib
import io
import itertools
import random
import re
import tarfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.support import broken_videos

LABELS = ["abseiling", "air drumming", "zumba", "yoga"]
PARTS = {"train": 8, "val": 3, "test": 1}
VIDEOS_A_PART = 17  # 12 archives, 204 clips

Fault = Callable[["Handler", bytes], None]


@dataclass
class Layout:
    """What was written, for tests to hold results against."""

    root: Path
    archived: dict[str, dict[str, str]] = field(default_factory=dict)  # split -> id -> part
    broken: dict[str, str] = field(default_factory=dict)  # id -> kind, in train
    replaced: set[str] = field(default_factory=set)
    climbing: str = ""  # id of a member ../../<name>
    missing: dict[str, set[str]] = field(default_factory=dict)  # split -> annotated ids in no archive
    labels: dict[str, str] = field(default_factory=dict)  # id -> label

    def ids(self, split: str) -> set[str]:
        return set(self.archived[split]) | self.missing[split]


def build_layout(root: Path, parts: dict[str, int] = PARTS, videos: int = VIDEOS_A_PART) -> Layout:
    """Write archives, CSVs, lists of archives, Mini-Kinetics lists and replacements below `root`."""
    layout = Layout(root)
    dice = random.Random(5)
    kinds = ["empty", "html_page", "truncated_index_behind", "audio_only", "garbage", "one_frame"]
    for split, count in parts.items():
        layout.archived[split], layout.missing[split] = {}, set()
        for number in range(count):
            members = []
            for place in range(videos):
                video_id = _video_id(dice, place)
                layout.archived[split][video_id] = f"part_{number}"
                layout.labels[video_id] = LABELS[place % len(LABELS)]
                data = short_clip(place % 6)
                if split == "train" and place == 3:
                    layout.broken[video_id] = kinds[number % len(kinds)]
                    data = broken_videos.KINDS[kinds[number % len(kinds)]][0]()
                if split == "train" and place == 7 and number < 2:
                    layout.replaced.add(video_id)
                    data = b"corrupted"
                members.append((_member(video_id), data))
            if split == "train" and number == 0:  # a wish to write to the folder above the one above
                layout.climbing = next(iter(layout.archived[split]))
                members[0] = (f"../../{members[0][0]}", members[0][1])
            # two that the real ones have had: a plain tar named .tar.gz, and paths of any depth inside
            deep = split == "train" and number == 1
            name = f"400/{split}/part_{number}.tar.gz"
            write(root / name, archive(members, plain=deep, folder="a/deep/path/" if deep else f"{split}/"))
        for _ in range(2):
            absent = _video_id(dice, 1)
            layout.missing[split].add(absent)
            layout.labels[absent] = LABELS[0]
        _write_tables(layout, split, with_is_cc=split != "val", parts=count)
    replacements = [(_member(name), short_clip(5)) for name in sorted(layout.replaced)]
    packed = archive(replacements, folder="replacement_for_corrupted_k400/")
    write(root / "400/replacement_for_corrupted_k400.tgz", packed)
    return layout


def short_clip(seed: int) -> bytes:
    return broken_videos.sound(8, "32x24", seed)


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def archive(members: list[tuple[str, bytes]], plain: bool = False, folder: str = "") -> bytes:
    """A tar, gzip-compressed unless `plain`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(folder + name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue() if plain else gzip.compress(buffer.getvalue(), 1, mtime=0)


def _video_id(dice: random.Random, place: int) -> str:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    text = "".join(dice.choices(letters, k=11))
    return {0: "-" + text[1:], 2: text[:5] + "_" + text[6:], 4: "_-" + text[2:]}.get(place, text)


def _member(video_id: str) -> str:
    return f"{video_id}_000012_000022.mp4"


def _write_tables(layout: Layout, split: str, with_is_cc: bool, parts: int) -> None:
    """The CSV with either header, the list of archives, and Mini-Kinetics' list: every other label."""
    ids = [*layout.archived[split], *sorted(layout.missing[split])]
    header = "label,youtube_id,time_start,time_end,split" + (",is_cc" if with_is_cc else "")
    rows = [f"{layout.labels[i]},{i},12,22,{split}" + (",0" if with_is_cc else "") for i in ids]
    base = layout.root / "400"
    write(base / f"annotations/{split}.csv", "\n".join([header, *rows, ""]).encode())
    addresses = [f"https://s3.amazonaws.com/kinetics/400/{split}/part_{n}.tar.gz\n" for n in range(parts)]
    write(base / f"{split}/k400_{split}_path.txt", "".join(addresses).encode())
    mini = [i for i in ids if layout.labels[i] in (LABELS[0], LABELS[2])]
    write(layout.root / f"mini/{split}_ytid_list.txt", "\n".join([*mini, ""]).encode())


@contextlib.contextmanager
def watchdog(seconds: float) -> Iterator[None]:
    """Nothing may hang: what does ends the test run, with the stacks of all threads."""
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


class Mirror:
    """Serves `root` on 127.0.0.1 while the block lasts; `requests` lists (path, Range header or "").

    With a `login` (user:password) it answers nobody else.
    """

    def __init__(self, root: Path, login: str = ""):
        self.root = root
        self.login = f"Basic {base64.b64encode(login.encode()).decode()}" if login else ""
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.always: dict[str, Fault] = {}
        self.requests: list[tuple[str, str]] = []
        self.closing = threading.Event()

    def __enter__(self) -> "Mirror":
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.mirror = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "ThreadingHTTPServer"

    def do_GET(self) -> None:
        mirror, path = self.server.mirror, self.path
        mirror.requests.append((path, self.headers.get("Range", "")))
        if mirror.login not in ("", self.headers.get("Authorization")):
            self.send_error(401)
            return
        file = mirror.root / path.removeprefix("/moved").lstrip("/")
        if not file.is_file():
            self.send_error(404)
            return
        data = file.read_bytes()
        fault = mirror.faults[path].pop(0) if mirror.faults[path] else mirror.always.get(path)
        with contextlib.suppress(ConnectionError):
            (fault or Handler.serve)(self, data)

    def serve(
        self,
        data: bytes,
        *,
        ranges: bool = True,
        etag: str | None = None,
        announce: int = 0,
        cut: int | None = None,
        pace: Callable[[], None] = lambda: None,
        extra: dict[str, str] | None = None,
    ) -> None:
        """Answer as a good server does, or nearly.

        Args:
            announce: bytes by which the announced length is wrong.
            cut: the connection ends after so many bytes of the body.
            pace: called before every 2 kB.
            extra: more headers.
        """
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if ranges else None
        first, last = 0, len(data) - 1
        if match:
            first, last = int(match[1]), min(int(match[2] or last), last)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        else:
            self.send_response(200)
        body = data[first : last + 1]
        self.send_header("ETag", etag or f'"{hashlib.md5(data).hexdigest()}"')
        self.send_header("Content-Length", str(len(body) + announce))
        for name, value in (extra or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if announce < 0:
            body = body[:announce]
        for start in range(0, len(body[:cut]), 2000):
            pace()
            self.wfile.write(body[:cut][start : start + 2000])
        if cut is not None or announce > 0:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def status(code: int, retry_after: int | None = None) -> Fault:
    def fault(handler: Handler, data: bytes) -> None:
        handler.send_response(code)
        if retry_after is not None:
            handler.send_header("Retry-After", str(retry_after))
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return fault


def cut(after: int) -> Fault:
    """The connection breaks in the body."""
    return lambda handler, data: handler.serve(data, cut=after)


def wrong_length(by: int) -> Fault:
    """More bytes announced than come (by > 0), or fewer announced and sent than there are."""
    return lambda handler, data: handler.serve(data, ranges=False, announce=by)


def without_ranges(handler: Handler, data: bytes) -> None:
    handler.serve(data, ranges=False)


def without_ranges_cut(after: int) -> Fault:
    return lambda handler, data: handler.serve(data, ranges=False, cut=after)


def drip(seconds: float) -> Fault:
    """So long before every 2 kB."""
    return lambda handler, data: handler.serve(data, pace=lambda: time.sleep(seconds))


def stall(after: int) -> Fault:
    """Announces everything, sends so many pieces of 2 kB, and then nothing more."""

    def fault(handler: Handler, data: bytes) -> None:
        closing, sent = handler.server.mirror.closing, itertools.count()
        handler.serve(data, pace=lambda: closing.wait(30) if next(sent) >= after else None)

    return fault


def redirect(handler: Handler, data: bytes) -> None:
    handler.send_response(302)
    handler.send_header("Location", f"/moved{handler.path}")
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def web_page(handler: Handler, data: bytes, kind: str = "text/html; charset=utf-8") -> None:
    """Status 200, and a page."""
    page = broken_videos.html_page()
    handler.send_response(200)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(page)))
    handler.end_headers()
    handler.wfile.write(page)


def web_page_in_disguise(handler: Handler, data: bytes) -> None:
    web_page(handler, data, "application/gzip")


def promise(size: int) -> Fault:
    """Claims so many bytes."""

    def fault(handler: Handler, data: bytes) -> None:
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes 0-0/{size}")
        handler.send_header("Content-Length", "1")
        handler.end_headers()
        handler.wfile.write(b"x")

    return fault


def amazon(etag: str) -> Fault:
    """As S3 answers: its header, and an ETag that means something."""
    return lambda handler, data: handler.serve(data, etag=etag, extra={"x-amz-request-id": "0123456789"})
