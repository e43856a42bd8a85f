"""The clips of one part: a WebDataset tar, and its ledger with a row a video.

data/<dataset>/clips/<split>/<part>.tar      per usable video `<video_id>.mp4` and `<video_id>.cls`
data/<dataset>/clips/<split>/<part>.parquet  LEDGER_COLUMNS: what became of every video of the part

A bad video never fails a part, it becomes a row with the decoder's own words; a part with too large a share
of them fails whole, and says which and why. The tar is the same for the same input, settings and ffmpeg,
whatever the number of threads.
"""

import dataclasses
import io
import tarfile
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import isnan
from pathlib import Path

import pandas

from v4d.config import ClipsConfig
from v4d.datasets.archives import read_members
from v4d.datasets.replacements import Replacements
from v4d.errors import V4DError
from v4d.preprocessing.transcode import Clip, clip_command, transcode
from v4d.utils.files import atomic_path, exclusive
from v4d.utils.progress import progress
from v4d.utils.threads import ordered_results

LEDGER_COLUMNS = {
    "video_id": "str",
    "label": "str",
    "class_index": "int64",
    "split": "str",
    "part": "str",
    "status": "str",
    "reason": "str",
    "num_frames": "int64",
    "fps": "float64",
    "width": "int64",
    "height": "int64",
    "bytes": "int64",
    "source_width": "int64",
    "source_height": "int64",
    "seconds": "float64",
    "replaced": "bool",
    "annotated_seconds": "float64",  # NaN where no times are annotated
    "warning": "str",  # what is odd about a usable clip
}
WAITING_BYTES = 256 << 20
"""Finished clips that may wait in memory for a slower one before them."""
SHORTER = 0.9
"""A clip below this share of its annotated span is noted in `warning`; rounding to frames and keyframe
cuts make a span of 10 s anything from 9.9 to 10.1 s."""


@dataclass(frozen=True)
class SourceVideo:
    """A video to transcode: its bytes or its path, or, where there is neither, what is wrong with it."""

    video_id: str
    source: Path | bytes | None
    replaced: bool = False
    status: str = ""
    reason: str = ""


def archive_videos(
    archive: Path, expected: pandas.DataFrame, replacements: Replacements | None = None
) -> Iterator[SourceVideo]:
    """The annotated videos of an archive, each once, streamed.

    A member whose name holds another span than the annotated one is another clip of that video, and passed
    over.

    Args:
        expected: rows in the annotations' layout.
        replacements: videos that stand in for corrupted ones.

    Raises:
        ArchiveError: see `v4d.datasets.archives.read_members`.
    """
    spans = expected.set_index("video_id")[["time_start", "time_end"]]
    seen: set[str] = set()

    def wanted(video_id: str, span: tuple[int, int] | None) -> bool:
        if video_id in seen or video_id not in spans.index:
            return False
        annotated = tuple(spans.loc[video_id])
        return span is None or isnan(annotated[0]) or span == annotated

    for member in read_members(archive, wanted):
        seen.add(member.video_id)  # the same name twice: the first one counts
        better = replacements.get(member.video_id) if replacements is not None else None
        if better is not None:
            yield SourceVideo(member.video_id, better, replaced=True)
        elif member.refused:
            yield SourceVideo(member.video_id, None, status="refused", reason=member.refused)
        else:
            yield SourceVideo(member.video_id, member.data)


def file_videos(rows: pandas.DataFrame) -> Iterator[SourceVideo]:
    """The videos of an annotations table that names files, in its order."""
    for video_id, path in zip(rows["video_id"], rows["path"], strict=True):
        if Path(path).is_file():
            yield SourceVideo(video_id, Path(path))
        else:
            yield SourceVideo(video_id, None, status="missing", reason=f"no such file: {path}")


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
    stop = threading.Event()
    with exclusive(tar, ledger), atomic_path(ledger) as new_ledger, atomic_path(tar) as new_tar:
        rows = []
        made = ordered_results(
            lambda video: _make(video, settings, stop),
            videos,
            threads=threads,
            size=lambda result: len(result[1].data),
            held=WAITING_BYTES,
        )
        try:
            # As USTAR, but for a header more where a name has over 100 letters or ones beyond ASCII.
            with tarfile.open(new_tar, "w", format=tarfile.PAX_FORMAT) as archive:
                total = len(due) or total
                for video, clip in progress(made, total=total, what=f"clips {split} {part}", unit="videos"):
                    rows.append(_row(annotated.loc[video.video_id], part, clip, video.replaced))
                    if clip.status == "ok":
                        _add(archive, f"{video.video_id}.mp4", clip.data)
                        _add(archive, f"{video.video_id}.cls", str(rows[-1]["class_index"]).encode())
        finally:
            stop.set()  # on an error, children need not be waited for
            made.close()
        seen = {row["video_id"] for row in rows}
        absent = Clip("missing", "not in its archive")
        rows += [_row(annotated.loc[name], part, absent, False) for name in sorted(due - seen)]
        table = _table(rows)
        _check_share(table, f"{split}/{part}", max_bad_share)
        table.to_parquet(new_ledger, index=False)
        ledger.unlink(missing_ok=True)  # never an old ledger beside a new tar
    return table


def _make(video: SourceVideo, settings: ClipsConfig, stop: threading.Event) -> tuple[SourceVideo, Clip]:
    if video.source is None:
        return video, Clip(video.status, video.reason)
    clip = transcode(video.source, settings, stop=stop)
    return dataclasses.replace(video, source=None), clip  # the source's bytes are not needed any more


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)  # no time, no owner: the same clips make the same tar
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def _row(annotation: pandas.Series, part: str, clip: Clip, replaced: bool) -> dict[str, object]:
    values = dataclasses.asdict(clip)
    span = annotation["time_end"] - annotation["time_start"]
    values["bytes"] = len(values.pop("data"))
    values |= {"part": part, "replaced": replaced, "annotated_seconds": span}
    if clip.status == "ok" and clip.seconds < SHORTER * span:
        shorter = f"{clip.seconds:.1f} s of {span:.1f} s annotated"
        values["warning"] = " | ".join(filter(None, [clip.warning, shorter]))
    for name in ("video_id", "label", "class_index", "split"):
        values[name] = annotation[name]
    return values


def _table(rows: list[dict[str, object]]) -> pandas.DataFrame:
    return pandas.DataFrame(rows, columns=list(LEDGER_COLUMNS)).astype(LEDGER_COLUMNS)


def _check_share(table: pandas.DataFrame, where: str, max_bad_share: float) -> None:
    bad = table[table["status"] != "ok"]
    if len(table) and len(bad) / len(table) > max_bad_share:
        first = "; ".join(f"{row.video_id}: {row.status}: {row.reason}" for row in bad[:3].itertuples())
        raise V4DError(
            f"{where}: {len(bad)} of {len(table)} videos are bad ({len(bad) / len(table):.0%}), more than "
            f"dataset.max_bad_share {max_bad_share:.0%} allows: {first}"
        )
