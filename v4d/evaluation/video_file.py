"""A video of one's own, prepared as the pipeline prepares a data set's.

Transcoded by the clips stage's code, compressed to JPEG by the frames stage's, and put into a shard that the
loader reads: what a network sees of a file is bit for bit what it would have seen in a data set.
"""

import dataclasses
import functools
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from v4d.config import ClipsConfig, FramesConfig
from v4d.data.shard_writer import ShardHeader, ShardWriter
from v4d.errors import V4DError
from v4d.preprocessing.decode import ClipBytes, DecodedClip, decode_clip
from v4d.preprocessing.transcode import Clip, anonymous_file, transcode
from v4d.utils.ffmpeg import ffmpeg_binary, run_with_deadline
from v4d.utils.processes import TaskResult, run_in_children
from v4d.utils.videos import VIDEO_SUFFIXES

FURTHER_CONTAINERS = (
    "apng,apv,avs2,avs3,bink,cavsvideo,dhav,dirac,dnxhd,dv,film_cpk,flic,gif,gxf,h261,h263,h264,hevc,ivf,"
    "jpeg_pipe,lxf,m4v,mjpeg,mjpeg_2000,mpegvideo,mpjpeg,mxf,nsv,nut,nuv,obu,rm,roq,smjpeg,smk,swf,"
    "vc1,vc1test,vvc,webp_anim,webp_pipe,wtv,yuv4mpegpipe"
)
"""Beyond those that the clips stage reads. Still no playlists: they may name other files."""
UNKNOWN_CONTAINER = "Format not on whitelist"
PATIENCE_SECONDS = 3600.0
"""A user's own video may be long."""


@dataclass(frozen=True)
class Source:
    """A video with its frames in a shard of its own, or what is wrong with it."""

    path: Path
    """The file."""
    shard: Path | None
    """Where its frames are; None where there are none."""
    problem: str = ""
    """What is wrong; empty where nothing is."""
    num_frames: int = 0
    """Of the file."""
    fps: float = 0.0
    """Frames a second; 0 where the file does not say it."""

    VIDEO_ID = "video"
    """Its id in the shard."""


def find_videos(paths: Iterable[str | Path]) -> list[Path]:
    """The files that are named, and those in the folders that are named, at any depth.

    Raises:
        V4DError: a path does not exist or is a pipe or device, or a folder has no videos.
    """
    videos: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file())
            if not found:
                raise V4DError(f"no videos in the folder {path}")
            videos += found
        elif path.is_file():
            videos.append(path)
        else:  # reading a pipe may block for ever, and works only once
            raise V4DError(f"{path} is no regular file" if path.exists() else f"no such file: {path}")
    return videos


def prepared(
    paths: Sequence[Path], clips: ClipsConfig, frames: FramesConfig, *, processes: int
) -> Iterator[Source]:
    """Every video in turn; its shard exists until the next one is asked for.

    What is wrong with a video is in the result. Decoders work in children, so that one that crashes or
    hangs takes nothing else with it.
    """
    clips = clips.replace(timeout=max(clips.timeout, PATIENCE_SECONDS))
    frames = frames.replace(timeout=max(frames.timeout, PATIENCE_SECONDS))
    outcomes = run_in_children(
        functools.partial(read_frames, clips=clips, frames=frames),
        paths,
        processes=max(1, min(processes, len(paths))),
        deadline=clips.timeout + frames.timeout,
    )
    for path, outcome in zip(paths, outcomes, strict=True):
        with tempfile.TemporaryDirectory(prefix="v4d-") as folder:
            yield _source(path, outcome, frames, Path(folder) / "video.lmdb")


def read_frames(path: Path, *, clips: ClipsConfig, frames: FramesConfig) -> DecodedClip:
    """The clips stage and the frames stage for one file."""
    clip = make_clip(path, clips)
    if clip.status != "ok":
        return DecodedClip(clip.status, clip.reason)
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        file.write(clip.data)
        file.flush()
        return decode_clip(ClipBytes(file.name, 0, len(clip.data)), frames)


def make_clip(path: Path, settings: ClipsConfig) -> Clip:
    """Transcode a file; out of a container that the clips stage does not take it is lifted first."""
    with path.open("rb") as file:
        clip = transcode(path if _is_text(path) else file.fileno(), settings)
    if clip.status != "corrupt":
        return clip
    with anonymous_file() as output:
        quiet = ["-hide_banner", "-nostdin", "-loglevel", "repeat+level+error", "-protocol_whitelist", "file"]
        source = ["-format_whitelist", FURTHER_CONTAINERS, "-i", f"file:{path.resolve()}"]
        coding = ["-map", "0:V:0", "-c:v", "ffv1", "-fps_mode", "passthrough", "-f", "matroska"]
        command = [ffmpeg_binary(), *quiet, *source, *coding, "-y", f"/dev/fd/{output}"]
        finished = run_with_deadline(command, timeout=settings.timeout, pass_fds=[output])
        if finished.code != 0:  # keep the clips stage's reason unless neither can read the container
            unknown = UNKNOWN_CONTAINER in clip.reason and UNKNOWN_CONTAINER in " ".join(finished.complaints)
            reason = "no video, or in a container that is not read here (playlists never are)"
            return dataclasses.replace(clip, reason=reason) if unknown else clip
        return transcode(output, settings)


def _is_text(path: Path) -> bool:
    """Whether a path is UTF-8, as the library that builds ffmpeg's arguments needs it."""
    return os.fsencode(path).decode("utf-8", "replace") == str(path)


def _source(path: Path, outcome: TaskResult, settings: FramesConfig, shard: Path) -> Source:
    clip: DecodedClip = outcome.value or DecodedClip(str(outcome.failure), outcome.reason)
    if clip.status != "ok":
        return Source(path, None, f"{clip.status}: {clip.reason}")
    header = ShardHeader(size=clip.size, quality=settings.quality, stride=settings.stride)
    with ShardWriter(shard, header) as writer:
        writer.add(
            Source.VIDEO_ID,
            clip.jpegs,
            class_index=0,
            num_frames=clip.num_frames,
            fps=clip.fps,
            size=clip.size,
            source_size=clip.source_size,
        )
    return Source(path, shard, "", clip.num_frames, clip.fps)
