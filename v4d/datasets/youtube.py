"""YouTube as a second source for what no archive holds: off by default, one video at a time, with waits.

    data/<dataset>/archives/<split>/youtube/       the videos so far, and outcomes.csv; stays
    data/<dataset>/archives/<split>/youtube.tar.gz all of them, an archive like the others

They are the part `youtube` of their split. Only the annotated span of a video is fetched. A video that is
gone for good is entered in outcomes.csv with YouTube's reason and not asked for again; a refusal (too many
requests, "sign in") is no outcome, and a run of them ends the job with what has come kept. yt-dlp runs as a
child, so that it cannot hang the job.
"""

import csv
import importlib.metadata
import importlib.util
import re
import sys
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas

from v4d.config import DatasetConfig
from v4d.datasets.archives import add_member, new_archive
from v4d.datasets.base import Requirement, SourceVideo, archive_videos
from v4d.datasets.kinetics_versions import YOUTUBE
from v4d.datasets.lockfile import LockFile
from v4d.errors import V4DError
from v4d.utils.ffmpeg import Finished, ffmpeg_binary, run_with_deadline
from v4d.utils.files import exclusive
from v4d.utils.progress import progress

REFUSALS = 6
"""In a row, after which the job gives up: about ten minutes of waiting, with the default wait."""
DEADLINE_SECONDS = 300.0
_REFUSED = re.compile(
    r"HTTP Error 4(?:29|03)|Too Many Requests|rate.?limit|not a bot|Sign in to confirm you(?!r age)|"
    r"HTTP Error 5\d\d|timed out|Connection|resolve|Network is unreachable|Temporary failure|"
    r"ffmpeg exited with code (?!183\b)|No space left|report this issue",
    re.IGNORECASE,
)
"""What says nothing about the video: YouTube's refusals, the network, this machine, yt-dlp's own mistakes
("please report this issue": it has to be updated). A wish to know one's age is about the video; so is
ffmpeg's 183, invalid data, while its 8 is a 403 or 429 that it met where yt-dlp had it fetch the span."""


def download_missing(dataset: DatasetConfig, split: str, *, deadline: float = DEADLINE_SECONDS) -> Path:
    """Fetch what no part of a split holds in a usable form and pack it; goes on where an earlier run ended.

    Where the part is given up (dataset.kinetics.give_up) what has come so far is packed and nobody asked.

    Raises:
        V4DError: yt-dlp is not installed, a part's clips are not made yet, or YouTube refuses.
    """
    target, folder = dataset.paths.archive(split, YOUTUBE), dataset.paths.gathered(split, YOUTUBE)
    with exclusive(target):
        folder.mkdir(parents=True, exist_ok=True)
        if not dataset.options.given_up(split, YOUTUBE):
            with exclusive(dataset.paths.archives / YOUTUBE):  # two splits' jobs would be two at a time
                _fetch_all(dataset, split, folder, deadline)
        _pack(folder, target)
        LockFile(dataset.paths.lock).record_file(f"{split}/{target.name}", target, replace=True)
    return target


def missing_videos(dataset: DatasetConfig, split: str) -> pandas.DataFrame:
    """The annotated rows of a split of whose videos no archive holds a usable one.

    Raises:
        V4DError: the annotations, or the ledger of a part, are not there yet.
    """
    paths = [dataset.paths.annotations(split)]
    paths += [dataset.paths.clips_ledger(split, part) for part in dataset.options.archive_names(split)]
    tables = []
    for path in paths:
        if not path.exists():
            raise V4DError(f"no such file: {path}; what is missing is known when all parts' clips are made")
        tables.append(pandas.read_parquet(path))
    annotated, ledgers = tables[0], pandas.concat(tables[1:])
    usable = ledgers.loc[ledgers["status"] == "ok", "video_id"]
    return annotated[~annotated["video_id"].isin(usable)]


def youtube_videos(
    dataset: DatasetConfig, split: str, missing: pandas.DataFrame, why: str
) -> Iterator[SourceVideo]:
    """The part's videos: those that came, and a reason for each of the others in `missing`.

    Args:
        why: they are in no archive.
    """
    others = dict.fromkeys(missing["video_id"])
    for video in archive_videos(dataset.paths.archive(split, YOUTUBE), missing):
        del others[video.video_id]
        yield video
    reasons = outcomes(dataset, split)
    for video_id in others:
        reason = f"{why}; YouTube: {reasons.get(video_id, 'not asked')}"
        yield SourceVideo(video_id, None, status="missing", reason=reason)


def outcomes(dataset: DatasetConfig, split: str) -> dict[str, str]:
    """Videos that YouTube does not have any more, with its reason."""
    path = dataset.paths.gathered(split, YOUTUBE) / "outcomes.csv"
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {row[0]: row[1] for row in csv.reader(file) if len(row) == 2}


def requirements(cookies: str | None) -> Iterator[Requirement]:
    """yt-dlp, and the file with cookies where one is named."""
    try:
        found = f"yt-dlp {importlib.metadata.version('yt-dlp')}"
    except importlib.metadata.PackageNotFoundError:
        yield Requirement("youtube", "no yt-dlp", "pip install 'v4d[youtube]'")
        return
    if cookies is not None and not Path(cookies).is_file():
        advice = "put it there, or take dataset.kinetics.cookies out"
        yield Requirement("youtube", f"{found}; no cookies file {cookies}", advice)
    else:
        yield Requirement("youtube", found)


def _fetch_all(dataset: DatasetConfig, split: str, folder: Path, deadline: float) -> None:
    if importlib.util.find_spec("yt_dlp") is None:
        raise V4DError("dataset.kinetics.youtube needs yt-dlp: pip install 'v4d[youtube]'")
    cookies = dataset.options.cookies
    if cookies is not None and not Path(cookies).is_file():
        raise V4DError(f"dataset.kinetics.cookies: no such file: {cookies}")
    known = outcomes(dataset, split)
    todo = [
        row
        for row in missing_videos(dataset, split).itertuples()
        if row.video_id not in known and not _file(folder, row).exists()
    ]
    settled = _settle(todo, f"{split}/{YOUTUBE}", folder, dataset.options, deadline)
    for _ in progress(settled, total=len(todo), what=f"YouTube {split}", unit="videos"):
        pass


def _settle(todo: list[Any], part: str, folder: Path, options: Any, deadline: float) -> Iterator[str]:
    """Fetch video after video; yields the id of each that came or is gone for good.

    One that is refused is asked for again when all others have been.
    """
    waiting, pause = deque(todo), threading.Event()
    refused = brought = 0
    while waiting:
        row = waiting.popleft()
        finished = _fetch(row, folder, options.cookies, deadline)
        words = _words(finished)
        came = finished.code == 0 and _file(folder, row).exists()
        if came or not _passing(finished, words):
            refused, brought = 0, brought + came
            if not came:
                _enter(folder, row.video_id, words)
            yield row.video_id
        else:
            waiting.append(row)
            refused += 1
            if refused >= REFUSALS:
                raise V4DError(
                    f"YouTube refuses, {refused} times in a row ({words}); {brought} videos came now and "
                    f"stay, {len(waiting)} are to come: run it again in some hours, name a file with "
                    f"cookies (dataset.kinetics.cookies), or go on with what has come: "
                    f"dataset.kinetics.give_up: [{part}]"
                )
            print(f"{row.video_id}: {words}; waiting", file=sys.stderr, flush=True)
        if waiting:
            pause.wait(options.youtube_wait * 2**refused)


def _passing(finished: Finished, words: str) -> bool:
    """Whether a failure says nothing about the video: it may come another time."""
    crashed = finished.code != 0 and not words.startswith("ERROR")
    return finished.timed_out or crashed or bool(_REFUSED.search(words))


def _fetch(row: Any, folder: Path, cookies: str | None, deadline: float) -> Finished:
    """Ask yt-dlp for one video's annotated span; a whole file appears or none."""
    target = _file(folder, row)
    unfinished = folder / f".unfinished-{row.video_id}.mp4"
    unfinished.unlink(missing_ok=True)
    command = [sys.executable, "-m", "yt_dlp", "--quiet", "--no-warnings", "--no-playlist", "--no-part"]
    command += ["--format", "bv*[height<=480][ext=mp4]/bv*[height<=480]/b", "--remux-video", "mp4"]
    command += ["--download-sections", f"*{row.time_start:g}-{row.time_end:g}", "--force-keyframes-at-cuts"]
    command += ["--ffmpeg-location", ffmpeg_binary(), "--socket-timeout", "30"]
    command += ["--cookies", cookies] if cookies else []
    command += ["--output", str(unfinished).replace("%", "%%")]
    command += [f"https://www.youtube.com/watch?v={row.video_id}"]
    finished = run_with_deadline(command, timeout=deadline)
    if finished.code == 0 and unfinished.exists():
        unfinished.replace(target)
    return finished


def _words(finished: Finished) -> str:
    """yt-dlp's own reason: its last line that begins with ERROR."""
    if finished.timed_out:
        return "no answer within the deadline"
    errors = [line for line in finished.lines if line.startswith("ERROR")]
    return (errors or [*finished.lines, f"yt-dlp ended with {finished.code}"])[-1][:300]


def _enter(folder: Path, video_id: str, reason: str) -> None:
    with (folder / "outcomes.csv").open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow([video_id, reason])


def _file(folder: Path, row: Any) -> Path:
    return folder / f"{row.video_id}_{int(row.time_start):06d}_{int(row.time_end):06d}.mp4"


def _pack(folder: Path, target: Path) -> None:
    """Stored, not compressed: the videos are compressed already."""
    with new_archive(target, compresslevel=0) as archive:
        for path in sorted(folder.glob("*.mp4")):
            if not path.name.startswith("."):
                add_member(archive, path.name, path.read_bytes())
