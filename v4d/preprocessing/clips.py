"""The clips of one part: a WebDataset tar, and its ledger with a row a video.

data/<dataset>/clips/<split>/<part>.tar      per usable video `<video_id>.mp4` and `<video_id>.cls`
data/<dataset>/clips/<split>/<part>.parquet  what became of every video of the part (v4d.preprocessing.ledger)

A bad video never fails a part, it becomes a row with the decoder's own words; a part with too large a share
of them fails whole, and says which and why. The tar is the same for the same input, settings and ffmpeg,
whatever the number of threads.
"""

import dataclasses
import tarfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas

from v4d.config import ClipsConfig, DatasetConfig
from v4d.datasets import open_source
from v4d.datasets.archives import Member, add_member
from v4d.datasets.base import SourceVideo
from v4d.errors import V4DError
from v4d.preprocessing.ledger import LEDGER_COLUMNS, check_bad_share
from v4d.preprocessing.transcode import Clip, clip_command, transcode
from v4d.utils.cost import measured
from v4d.utils.files import atomic_path, exclusive
from v4d.utils.progress import progress
from v4d.utils.threads import Room, ordered_results

READ_BYTES = 256 << 20
"""Videos of archives that may be in memory, read and not yet transcoded."""
WAITING_BYTES = 128 << 20
"""Finished clips that may wait in memory for a slower one before them."""
SHORTER = 0.9
"""A clip below this share of its annotated span is noted in `warning`; rounding to frames and keyframe
cuts make a span of 10 s anything from 9.9 to 10.1 s."""


def transcode_part(
    dataset: DatasetConfig, settings: ClipsConfig, split: str, part: str, threads: int
) -> pandas.DataFrame:
    """Make the clips of one part of a configured data set; returns its ledger.

    Raises:
        V4DError: the annotations or the archive are not there, or as `make_clips`.
    """
    source, paths = open_source(dataset), dataset.paths
    source.check_split(split)
    table = paths.annotations(split)
    if not table.exists():
        raise V4DError(f"no such file: {table}; run `v4d annotations` first")
    annotated = pandas.read_parquet(table)
    source.check_part(split, part, set(annotated["part"]))
    expected = source.expected(split, part, annotated)
    with measured(paths.cost("clips", split, part)) as cost:
        ledger = make_clips(
            source.videos(split, part, expected),
            expected,
            split=split,
            part=part,
            tar=paths.clips(split, part),
            ledger=paths.clips_ledger(split, part),
            settings=settings,
            threads=threads,
            max_bad_share=source.max_bad_share(split, part),
            total=max(1, round(len(annotated) / len(source.parts(split)))),
        )
        cost.videos, cost.bytes = len(ledger), int(ledger["bytes"].sum())
    return ledger


def make_clips(
    videos: Iterable[SourceVideo],
    expected: pandas.DataFrame,
    *,
    split: str,
    part: str,
    tar: Path,
    ledger: Path,
    settings: ClipsConfig,
    threads: int,
    max_bad_share: float,
    total: int | None = None,
) -> pandas.DataFrame:
    """Transcode `videos` into `tar` and write `ledger`; both appear whole or not at all.

    Args:
        expected: rows in the annotations' layout, with at least those of `videos`. Rows whose `part` is this
            part and that do not come are entered as missing; rows without a part may be in any.
        threads: videos at a time, one ffmpeg each.
        max_bad_share: above this share of bad videos nothing is written.
        total: about how many videos will come, for the time left; known where `part` is.

    Returns:
        The ledger.

    Raises:
        V4DError: too many bad videos, a damaged archive, a full disk, settings that ffmpeg cannot meet.
    """
    clip_command("", "", settings)  # a wrong setting or no ffmpeg is no fault of the videos
    annotated = expected.set_index("video_id", drop=False)
    due = set(expected.loc[expected["part"] == part, "video_id"])
    stop, room = threading.Event(), Room(READ_BYTES)
    with exclusive(tar, ledger), atomic_path(ledger) as new_ledger, atomic_path(tar) as new_tar:
        rows: list[dict[str, Any]] = []
        made = ordered_results(
            lambda video: _make(video, settings, room, stop),
            _read_in_turn(videos, settings, room),
            threads=threads,
            size=lambda result: result[1].size,
            held=WAITING_BYTES,
        )
        try:
            # As USTAR, but for a header more where a name has over 100 letters or ones beyond ASCII.
            with tarfile.open(new_tar, "w", format=tarfile.PAX_FORMAT) as archive:
                total = len(due) or total
                for video, clip in progress(made, total=total, what=f"clips {split} {part}", unit="videos"):
                    rows.append(_row(annotated.loc[video.video_id], part, clip, video.replaced))
                    if clip.status == "ok":
                        add_member(archive, f"{video.video_id}.mp4", clip.content)
                        if not isinstance(clip.content, bytes):
                            clip.content.close()
                        add_member(archive, f"{video.video_id}.cls", str(rows[-1]["class_index"]).encode())
        finally:
            stop.set()  # on an error, children need not be waited for
            made.close()
        seen = {row["video_id"] for row in rows}
        absent = Clip("missing", "not in its archive")
        rows += [_row(annotated.loc[name], part, absent, False) for name in sorted(due - seen)]
        check_bad_share(f"{split}/{part}", rows, max_bad_share)
        table = pandas.DataFrame(rows, columns=list(LEDGER_COLUMNS)).astype(LEDGER_COLUMNS)
        table.to_parquet(new_ledger, index=False)
        ledger.unlink(missing_ok=True)  # never an old ledger beside a new tar
    return table


def _read_in_turn(videos: Iterable[SourceVideo], settings: ClipsConfig, room: Room) -> Iterator[SourceVideo]:
    """Read members of archives when there is room for them, and refuse those that are too large."""
    limit = settings.max_megabytes << 20
    for video in videos:
        member = video.source
        if isinstance(member, Member):
            if member.size > limit:
                reason = f"it has {member.size} bytes; clips.max_megabytes is {settings.max_megabytes}"
                yield dataclasses.replace(video, source=None, status="refused", reason=reason)
                continue
            room.take(member.size)
            video = dataclasses.replace(video, source=member.read())
        elif isinstance(member, bytes):
            room.take(len(member))
        del member
        yield video


def _make(
    video: SourceVideo, settings: ClipsConfig, room: Room, stop: threading.Event
) -> tuple[SourceVideo, Clip]:
    source, video = video.source, dataclasses.replace(video, source=None)
    if source is None:
        return video, Clip(video.status, video.reason)
    assert not isinstance(source, Member)  # it was read
    try:
        return video, transcode(source, settings, stop=stop)
    finally:
        if isinstance(source, bytes):
            room.give_back(len(source))


def _row(annotation: pandas.Series, part: str, clip: Clip, replaced: bool) -> dict[str, Any]:
    values = {name: value for name, value in vars(clip).items() if name != "content"}
    span = annotation["time_end"] - annotation["time_start"]
    values |= {"bytes": clip.size, "part": part, "replaced": replaced, "annotated_seconds": span}
    if clip.status == "ok" and clip.seconds < SHORTER * span:
        shorter = f"{clip.seconds:.1f} s of {span:.1f} s annotated"
        values["warning"] = " | ".join(filter(None, [clip.warning, shorter]))
    return values | {name: annotation[name] for name in ("video_id", "label", "class_index", "split")}
