"""One video through ffmpeg: the command line of a clip, and what came of it.

A clip is H.264 in MP4: `clips.size`, yuv420p, limited range and BT.601 whatever the source's range and
matrix were (what readers that look at no tags assume, and what JPEG uses), rotation applied, no audio, key
frames exactly `clips.gop` apart. The source's own timing is kept unless `clips.fps` is set. The same input,
settings and ffmpeg give the same bytes.
"""

import os
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import av

from v4d.config import ClipsConfig, frame_size
from v4d.errors import V4DError
from v4d.utils.ffmpeg import Finished, ffmpeg_binary, run_with_deadline

CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts,mpeg,asf,ogg"
"""What a source may be. Playlists and scripts are left out: a file `x.mp4` that is an HLS playlist could
have ffmpeg read other files of this machine, or fetch them."""
IN_MEMORY = 256 << 20
"""Bytes up to which a video is held in memory rather than in an unlinked file."""
SMALL = 1 << 20
"""Bytes up to which a finished clip is held in this process's own memory."""
_SIZE = re.compile(r"Stream #\d+:\d+.*: Video: .*?, ([1-9]\d*)x([1-9]\d*)\b")
_NO_VIDEO = re.compile(r"matches no streams|does not contain any stream", re.IGNORECASE)


@dataclass(frozen=True)
class Clip:
    """What became of one video; the ledger's columns of the same names. Without a clip all numbers are 0."""

    status: str
    reason: str = ""
    content: bytes | IO[bytes] = b""
    """The clip: bytes, or an open file where there are many."""
    num_frames: int = 0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    seconds: float = 0.0
    source_width: int = 0
    source_height: int = 0
    warning: str = ""

    @property
    def size(self) -> int:
        """Bytes of the clip."""
        content = self.content
        return len(content) if isinstance(content, bytes) else os.fstat(content.fileno()).st_size

    @property
    def data(self) -> bytes:
        """All of them."""
        if isinstance(self.content, bytes):
            return self.content
        return os.pread(self.content.fileno(), self.size, 0)


def transcode(
    source: Path | bytes | int, settings: ClipsConfig, *, stop: threading.Event | None = None
) -> Clip:
    """Make a clip of a video; whatever is wrong with the video is in the result, never an exception.

    Args:
        source: a path, the bytes of a file, or the descriptor of one.
        stop: set by another thread to give up early.
    """
    started = time.monotonic()
    with _readable(source) as (address, fds), anonymous_file() as output:
        command = clip_command(address, f"/dev/fd/{output}", settings)
        finished = run_with_deadline(command, timeout=settings.timeout, pass_fds=[*fds, output], stop=stop)
        if finished.timed_out:
            seconds = time.monotonic() - started
            return _failed("timeout", finished, f"killed after {seconds:.0f} s: ")
        if finished.code != 0:
            no_video = any(_NO_VIDEO.search(line) for line in finished.complaints)
            return _failed("no_video_stream" if no_video else "corrupt", finished)
        return _examine(output, finished, settings)


def clip_command(source: str, target: str, settings: ClipsConfig) -> list[str]:
    """ffmpeg's arguments for one clip.

    One thread each for decoder and encoder: the pool is what keeps the cores busy, and x264 writes other
    bytes with another number of threads. `-timelimit` (CPU time, over all of ffmpeg's threads) bounds what
    a child may cost beside the deadline that its parent holds it to.

    Raises:
        V4DError: the size is odd, which yuv420p cannot hold.
    """
    import ffmpeg

    limit = 4 * int(settings.timeout) + 4
    binary = [ffmpeg_binary(), "-hide_banner", "-nostdin", "-nostats", "-loglevel", "repeat+level+info"]
    options = {"timelimit": limit, "filter_complex_threads": 1, "threads": 1}
    allowed = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
    video = ffmpeg.input(source, **options, **allowed)["V"]  # V, not v: an attached picture is no video
    if settings.fps is not None:
        video = video.filter("fps", fps=settings.fps)
    width, height = _scale(settings.size)
    video = (
        video.filter("scale", width, height, flags="bicubic", out_color_matrix="bt601", out_range="tv")
        .filter("format", "yuv420p")
        .filter("setsar", 1)
    )
    coding = {"c:v": "libx264", "preset": settings.preset, "crf": settings.crf, "threads": 1}
    groups = {"g": settings.gop, "keyint_min": settings.gop, "sc_threshold": 0}
    # passthrough, and a time base that is fine enough: frames are neither doubled, dropped nor moved
    timing = {"fps_mode": "passthrough", "enc_time_base": "1:90000"}
    tags = {"colorspace": "smpte170m", "color_range": "tv", "map_metadata": -1, "map_chapters": -1}
    exact = {"format": "mp4", "fflags": "+bitexact", "flags": "+bitexact"}
    result = ffmpeg.output(video, target, **coding, **groups, **timing, **tags, **exact, an=None)
    return ffmpeg.compile(result, cmd=binary, overwrite_output=True)


def _scale(size: str | int) -> tuple[int | str, int | str]:
    """Width and height for ffmpeg's scale filter, expressions where the ratio is kept."""
    wanted = frame_size(size)
    sides = (wanted,) if isinstance(wanted, int) else wanted
    if any(side % 2 for side in sides):
        raise V4DError(f"clips.size {size}: yuv420p needs even numbers")
    if not isinstance(wanted, int):
        return wanted
    # dar: the ratio as displayed, after rotation and with pixels that need not be square
    return (
        f"if(lt(dar,1),{wanted},2*round({wanted}*dar/2))",
        f"if(lt(dar,1),2*round({wanted}/dar/2),{wanted})",
    )


def _examine(output: int, finished: Finished, settings: ClipsConfig) -> Clip:
    """Read the finished file back: what is in it, and that it decodes."""
    warning = " | ".join(finished.complaints)
    if os.fstat(output).st_size == 0:
        return _failed("corrupt" if warning else "too_short", finished, "no frame came out: ")
    try:
        found = _read_back(output)
    except (av.FFmpegError, IndexError, ValueError) as error:
        return _failed("corrupt", finished, f"the clip cannot be read back: {error}: ")
    frames = found["num_frames"]
    if frames < settings.min_frames or frames == 0:
        reason = f"{frames} frames, fewer than {settings.min_frames}"
        return _failed("too_short", finished, reason + (": " if warning else ""))
    return Clip("ok", content=_content(output), warning=warning, **found, **_source_size(finished))


def _read_back(output: int) -> dict[str, Any]:
    """What a clip holds, as in `Clip`; every frame is read, the last group of them decoded.

    Decoding all of them would add an eighth to the cost of a clip, and the frames stage does it anyway.

    Raises:
        ValueError: the last group of frames does not decode.
        av.FFmpegError: the file is damaged.
    """
    frames = 0
    group: list[av.Packet] = []
    with av.open(f"/dev/fd/{output}", format="mp4") as container:
        stream = container.streams.video[0]
        codec = stream.codec_context
        codec.thread_count = 1
        for packet in container.demux(stream):
            frames += packet.size > 0
            group = [packet] if packet.is_keyframe else [*group, packet]
        decoded = sum(len(packet.decode()) for packet in group)  # the last packet is empty, and flushes
        if decoded != len(group) - 1:
            raise ValueError(f"{decoded} of its last {len(group) - 1} frames decode")
        seconds = float((stream.duration or 0) * (stream.time_base or 0))
        rate = round(frames / seconds, 3) if seconds > 0 else 0.0
        found = {"num_frames": frames, "fps": rate, "seconds": round(seconds, 3)}
        return found | {"width": codec.width, "height": codec.height}


def _failed(status: str, finished: Finished, prefix: str = "") -> Clip:
    words = finished.last_words() if finished.complaints or finished.code else ""
    reason = (prefix + words).removesuffix(": ") or f"ffmpeg ended with {finished.code}"
    return Clip(status, reason, **_source_size(finished))


def _source_size(finished: Finished) -> dict[str, Any]:
    """Width and height as ffmpeg prints them for its first input stream that is no attached picture."""
    for line in finished.lines:
        match = _SIZE.search(line)
        if match and "(attached pic)" not in line:
            return {"source_width": int(match[1]), "source_height": int(match[2])}
        if "Output #0" in line:
            break
    return {}


@contextmanager
def _readable(source: Path | bytes | int) -> Iterator[tuple[str, list[int]]]:
    """An address that a child can open and seek in, and the descriptors it must inherit."""
    if isinstance(source, Path):
        yield f"file:{source.resolve()}", []
    elif isinstance(source, int):
        yield f"/dev/fd/{source}", [source]
    else:
        with anonymous_file(len(source)) as descriptor:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(source)
            yield f"/dev/fd/{descriptor}", [descriptor]


@contextmanager
def anonymous_file(size: int = 0) -> Iterator[int]:
    """The descriptor of a file without a name, gone when it is closed, kill -9 or not.

    In memory (a pipe will not do: an MP4 with its index at the end has to be sought in), on disk where it
    is large or the platform has no memfd.
    """
    if size <= IN_MEMORY and hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("v4d", os.MFD_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    else:
        with tempfile.TemporaryFile() as file:
            yield file.fileno()


def _content(descriptor: int) -> bytes | IO[bytes]:
    """What a file holds; a large one stays a file, since many clips may wait for their turn."""
    if (size := os.fstat(descriptor).st_size) <= SMALL:
        return os.pread(descriptor, size, 0)
    file = os.fdopen(os.dup(descriptor), "rb")
    file.seek(0)
    return file
