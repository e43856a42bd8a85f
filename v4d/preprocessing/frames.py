"""The frames stage: the clips of one part become one shard and its ledger.

A bad clip never fails a part: it becomes a row with its status and the decoder's own words. More of
them than `max_bad_share` point at something else (a disk, a decoder), and fail it.
"""

import functools
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet

from v4d.config import DatasetConfig, FramesConfig, frame_size
from v4d.data.account import status_counts
from v4d.data.shard_writer import ShardHeader, ShardWriter
from v4d.errors import V4DError
from v4d.preprocessing.decode import ClipBytes, DecodedClip, decode_clip, decoder_names
from v4d.preprocessing.ledger import check_bad_share, read_ledger
from v4d.utils.files import atomic_path
from v4d.utils.processes import TaskResult, run_in_children
from v4d.utils.progress import progress

Row = dict[str, Any]
_NOTHING = {"num_frames": 0, "fps": 0.0, "width": 0, "height": 0, "bytes": 0}


def extract_part(
    dataset: DatasetConfig, settings: FramesConfig, split: str, part: str, threads: int
) -> dict[str, int]:
    """Decode the clips of a part into a shard, and account for each of its videos.

    Videos that are bad in the ledger of the clips are carried over into the ledger of the frames.

    Args:
        threads: decoder processes.

    Returns:
        The number of videos of each status.

    Raises:
        V4DError: an input cannot be read, more than `dataset.max_bad_share` of the clips are bad, the disk is
            full, or another process is writing the shard.
    """
    tar, name = dataset.paths.clips(split, part), f"{split}/{part}"
    table = read_ledger(dataset.paths.clips_ledger(split, part))
    rows = table.to_pylist()
    members = tar_members(tar)
    good = [row for row in rows if row["status"] == "ok"]
    for row in good:
        if row["video_id"] not in members:
            row.update(status="missing", reason=f"no clip in {tar.name}", **_NOTHING)
    present = [row for row in good if row["status"] == "ok"]
    with ShardWriter(dataset.paths.shard(split, part), _header(settings)) as writer:
        outcomes = run_in_children(
            functools.partial(decode_clip, settings=settings),
            (members[row["video_id"]] for row in present),
            processes=max(1, min(threads, len(present))),
            deadline=settings.timeout,
        )
        shown = progress(outcomes, total=len(present), what=name, unit="clips")
        for row, outcome in zip(present, shown, strict=True):
            _take(row, outcome, writer)
        check_bad_share(name, good, dataset.max_bad_share)
    with atomic_path(dataset.paths.frames_ledger(split, part)) as temporary:
        pyarrow.parquet.write_table(table.from_pylist(rows, schema=table.schema), temporary)
    return status_counts(row["status"] for row in rows)


def tar_members(path: Path) -> dict[str, ClipBytes]:
    """Where each clip of a WebDataset tar lies, by video id.

    Raises:
        V4DError: the tar cannot be read.
    """
    where = str(path.absolute())  # children start in a folder of their own
    try:
        with tarfile.open(path, "r:") as archive:
            return {
                member.name.removesuffix(".mp4"): ClipBytes(where, member.offset_data, member.size)
                for member in archive
                if member.isfile() and member.name.endswith(".mp4")
            }
    except (OSError, tarfile.TarError) as error:
        raise V4DError(f"cannot read clips {path}: {error}") from error


def _take(row: Row, outcome: TaskResult, writer: ShardWriter) -> None:
    """Write a decoded clip's frames to the shard and its figures to its row."""
    failed = "timeout" if outcome.failure == "timeout" else "corrupt"
    clip: DecodedClip = outcome.value or DecodedClip(failed, outcome.reason)
    size = sum(map(len, clip.jpegs))
    row.update(status=clip.status, reason=clip.reason, num_frames=clip.num_frames, fps=clip.fps, bytes=size)
    row.update(width=clip.size[0], height=clip.size[1])
    if clip.status == "ok":
        source = int(row["source_width"] or 0), int(row["source_height"] or 0)
        writer.add(
            row["video_id"],
            clip.jpegs,
            class_index=int(row["class_index"]),
            num_frames=clip.num_frames,
            fps=clip.fps,
            size=clip.size,
            source_size=source if all(source) else clip.source_size,
        )


def _header(settings: FramesConfig) -> ShardHeader:
    size = frame_size(settings.size) if settings.size is not None else None
    fixed = size if isinstance(size, tuple) else None
    return ShardHeader(fixed, settings.quality, stride=settings.stride, **decoder_names(settings))
