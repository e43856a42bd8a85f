"""From the bytes of a clip to JPEG frames: every frame counted, every `stride`-th one encoded.

A JPEG is full-range BT.601, a clip hardly ever is. PyAV hands out YUV planes, swscale brings them
to the JPEG's range and matrix, and they are compressed as they are: no way through RGB and back.
"""

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import simplejpeg
from av.video.reformatter import VideoReformatter

from v4d.config import FramesConfig, frame_size
from v4d.errors import V4DError

_DECORD_BATCH = 32


@dataclass(frozen=True)
class ClipBytes:
    """Where a clip lies: `size` bytes at `offset` of a file (a member of a tar)."""

    path: str
    offset: int
    size: int

    def read(self) -> bytes:
        """The clip's bytes."""
        with Path(self.path).open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass
class DecodedClip:
    """A clip's frames, or what is wrong with it."""

    status: str = "ok"
    """ok, corrupt, no_video_stream or too_short (not one frame)."""
    reason: str = ""
    """The decoder's own words."""
    jpegs: list[bytes] = field(default_factory=list)
    """Source frames 0, stride, 2 * stride, ..."""
    num_frames: int = 0
    """Frames decoded, whatever the stride."""
    fps: float = 0.0
    size: tuple[int, int] = (0, 0)
    """Width and height of the JPEGs."""
    source_size: tuple[int, int] = (0, 0)


def decode_clip(clip: ClipBytes, settings: FramesConfig) -> DecodedClip:
    """Decode a clip and compress its frames.

    What is wrong with the clip is in the result, not raised. The decoder may still crash or hang:
    call this in a child process. Where decord cannot read a clip, PyAV is asked: decord has limits of its own
    (it fails at frames of 16, 24, 48 and 72 pixels' width, and counts frames that an edit list cuts off).
    """
    chosen, data = DECODERS[settings.decoder], clip.read()
    for decoder in dict.fromkeys((chosen, PYAV)):
        try:
            result = decoder.decode(data, settings)
            break
        except BadClipError as error:
            result = DecodedClip("corrupt", str(error))
    if result.status == "ok" and not result.num_frames:
        return DecodedClip("too_short", "not one frame could be decoded")
    return result


def target_size(width: int, height: int, size: str | int | None) -> tuple[int, int]:
    """Width and height of the frames: the clip's own, exactly WIDTHxHEIGHT, or with that short side."""
    if size is None:
        return width, height
    wanted = frame_size(size)
    if isinstance(wanted, tuple):
        return wanted
    longer = 2 * round(max(width, height) * wanted / min(width, height) / 2)
    return (longer, wanted) if width >= height else (wanted, longer)


def decoder_names(settings: FramesConfig) -> dict[str, Any]:
    """`decoder` and `encoder` with their versions, for the header of a shard.

    Raises:
        V4DError: the decoder is not installed.
    """
    version = DECODERS[settings.decoder].version()
    return {"decoder": version, "encoder": f"simplejpeg {simplejpeg.__version__}"}


class BadClipError(Exception):
    """A decoder cannot read a clip; the message has its own words."""


@dataclass(frozen=True)
class Decoder:
    """A library that decodes clips."""

    decode: Callable[[bytes, FramesConfig], DecodedClip]
    """The frames of a clip; raises `BadClipError` for one that it cannot read."""
    version: Callable[[], str]
    """Its name and version; raises V4DError where it is not installed."""


def _pyav_version() -> str:
    codec = ".".join(map(str, av.library_versions["libavcodec"]))
    return f"PyAV {av.__version__} (libavcodec {codec})"


def _pyav_frames(data: bytes, settings: FramesConfig) -> DecodedClip:
    with _opened(data) as container:
        if not container.streams.video:
            return DecodedClip("no_video_stream", "the file has no video stream")
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1  # a process a core, not threads
        result = DecodedClip(fps=float(stream.average_rate or stream.guessed_rate or 0))
        scaler = VideoReformatter()
        for frame in container.decode(stream):
            if not result.num_frames:
                result.source_size = frame.width, frame.height
                result.size = target_size(frame.width, frame.height, settings.size)
            if result.num_frames % settings.stride == 0:
                result.jpegs.append(_encode(frame, scaler, result.size, settings.quality))
            result.num_frames += 1
        return result


@contextlib.contextmanager
def _opened(data: bytes) -> Iterator[av.container.InputContainer]:
    try:
        # Titles are in whatever encoding; PyAV raises by default where it is not UTF-8.
        with av.open(io.BytesIO(data), "r", metadata_errors="replace") as container:
            yield container
    except av.FFmpegError as error:
        raise BadClipError(error.strerror or str(error)) from error


def _encode(frame: av.VideoFrame, scaler: VideoReformatter, size: tuple[int, int], quality: int) -> bytes:
    """Compress a frame's planes, in the JPEG's own range and matrix, without a detour through RGB.

    One scaler for all frames and no threads in it: `frame.reformat` builds a new one each time, at five times
    the cost. Of the cheap filters AREA is the nearest to ffmpeg's exact RGB (bt709 needs one at any size).
    """
    jpeg: dict[str, Any] = {"format": "yuvj420p", "dst_colorspace": "ITU601", "dst_color_range": "JPEG"}
    frame = scaler.reformat(frame, *size, **jpeg, interpolation="AREA", threads=1)
    planes = (
        np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
        for plane in frame.planes
    )
    return simplejpeg.encode_jpeg_yuv_planes(*planes, quality=quality)


def _decord_version() -> str:
    try:
        import decord
    except ImportError as error:
        raise V4DError("frames.decoder is decord, which this machine does not have: take auto") from error
    return f"decord {decord.__version__}"


def _decord_frames(data: bytes, settings: FramesConfig) -> DecodedClip:
    import decord

    try:
        reader = decord.VideoReader(io.BytesIO(data), num_threads=1)
        shown = _shown_packets(data)
        if len(reader) > shown:
            raise BadClipError(f"decord counts {len(reader)} frames where there are {shown}")
        height, width = reader[0].shape[:2]
        size = target_size(width, height, settings.size)
        if size != (width, height):
            reader = decord.VideoReader(io.BytesIO(data), num_threads=1, width=size[0], height=size[1])
        jpegs = [
            simplejpeg.encode_jpeg(image, quality=settings.quality, colorsubsampling="420")
            for image in _decord_images(reader, settings.stride)
        ]
        return DecodedClip("ok", "", jpegs, len(reader), float(reader.get_avg_fps()), size, (width, height))
    except (RuntimeError, decord.DECORDError) as error:  # the latter is no RuntimeError
        raise BadClipError(str(error).strip().splitlines()[0]) from error


def _shown_packets(data: bytes) -> int:
    """Frames at most: decord counts those that an edit list cuts off as well, and repeats others for them."""
    with _opened(data) as container:
        return sum(bool(packet.size) and not packet.is_discard for packet in container.demux(video=0))


def _decord_images(reader: Any, stride: int) -> Iterator[np.ndarray]:
    wanted = range(0, len(reader), stride)
    for first in range(0, len(wanted), _DECORD_BATCH):
        yield from reader.get_batch(list(wanted[first : first + _DECORD_BATCH])).asnumpy()


PYAV = Decoder(_pyav_frames, _pyav_version)
DECODERS = {"auto": PYAV, "pyav": PYAV, "decord": Decoder(_decord_frames, _decord_version)}
"""By `frames.decoder`; PyAV is the faster one and runs on every platform."""
