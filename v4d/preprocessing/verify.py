"""Checking what is on disk: every byte of every shard, shards and kept clips against their ledgers.

Ledgers are held against the manifest, and that against class names and dataset.json.
"""

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from v4d.config import Config
from v4d.data.account import MANIFEST_ANEW, account_problems
from v4d.data.index import dataset_info
from v4d.data.shards import ShardReader, Video, open_store
from v4d.datasets import DataSource, open_source
from v4d.datasets.tar import TarDamage, tar_members
from v4d.errors import V4DError
from v4d.preprocessing.ledger import read_ledger
from v4d.utils.processes import run_in_children
from v4d.utils.progress import progress
from v4d.utils.text import some_of

Row = dict[str, Any]
_SHARD_SECONDS = 6 * 3600


@dataclass(frozen=True)
class Part:
    """A part's files: its shard and its clips, each with a ledger."""

    split: str
    name: str
    shard: Path
    ledger: Path
    clips: Path
    clips_ledger: Path


def verify_dataset(config: Config, *, threads: int = 1) -> list[str]:
    """Check all shards, clips that were kept, ledgers and the manifest of a config's data set.

    Returns:
        A line for each thing that is wrong, with the command that makes it right; no other part is touched by
        that.
    """
    source, parts = open_source(config.dataset), list(_parts(config))
    if not parts:
        return [f"{config.dataset.root}: there are no parts to check"]
    problems = []
    kept = [part for part in parts if part.clips.exists()]
    for check, what, checked in ((verify_part, "shard", parts), (verify_clips, "clips", kept)):
        processes = max(1, min(threads, len(checked)))
        outcomes = run_in_children(check, checked, processes=processes, deadline=_SHARD_SECONDS)
        shown = progress(outcomes, total=len(checked), what=f"verify {what}", unit="parts")
        for part, outcome in zip(checked, shown, strict=True):
            found = outcome.value
            if outcome.failure:
                path = part.shard if what == "shard" else part.clips
                found = [f"{what} {path}: checking it ended with {outcome.failure}: {outcome.reason}"]
            way = _way_to_shard(part) if what == "shard" else _way_to_clips(source, part)
            problems += [f"{problem}; to make it anew: {way}" for problem in found]
    return problems + verify_manifest(config, parts)


def _way_to_shard(part: Part) -> str:
    if part.clips.exists():
        return f"v4d frames --config ... --split {part.split} --part {part.name}"
    return "delete it and run snakemake, which makes its clips again; they are not here"


def _way_to_clips(source: DataSource, part: Part) -> str:
    archive = source.archive(part.split, part.name)
    if archive is None or archive.exists():
        return f"v4d clips --config ... --split {part.split} --part {part.name}"
    return "delete it and run snakemake, which brings its archive again; that is not here"


def verify_part(part: Part) -> list[str]:
    """Check one shard, byte by byte and frame by frame, and its ledger.

    Call it in a child process: should a damaged file get past the seal's SHA-256, LMDB may crash on it.
    """
    return list(_check_part(part))


def _check_part(part: Part) -> Iterator[str]:
    try:
        reader = open_store(part.shard)
        reader.check_bytes()
        videos = dict(reader.videos())
        yield from _check_frames(reader, videos)
        yield from _check_ledger(part, reader, videos)
    except V4DError as error:
        yield str(error)


def verify_clips(part: Part) -> list[str]:
    """Check that the clips of a part are whole, and those of its ledger; no clip is decoded."""
    try:
        return list(_check_clips(part))
    except (OSError, TarDamage, V4DError) as error:
        return [str(error) if isinstance(error, V4DError) else f"clips {part.clips} are damaged: {error}"]


def _check_clips(part: Part) -> Iterator[str]:
    rows = _good_rows(part.clips_ledger, ("class_index", "bytes"))
    yield from _check_places(part, part.clips_ledger, rows)
    expected: dict[str, object] = {f"{row['video_id']}.mp4": row["bytes"] for row in rows}
    expected |= {f"{row['video_id']}.cls": str(row["class_index"]).encode() for row in rows}
    with part.clips.open("rb") as stream:
        found = {
            member.name: member.read() if member.name.endswith(".cls") else member.size
            for member in tar_members(stream, end_mark=True)
        }
    yield from _check_names(f"clips {part.clips} and their ledger", set(found), set(expected), "members")
    odd = [name for name in sorted(found.keys() & expected.keys()) if found[name] != expected[name]]
    if odd:
        here, there = found[odd[0]], expected[odd[0]]
        yield (
            f"clips {part.clips}: {len(odd)} members differ from their ledger, "
            f"e.g. {odd[0]}: {here!r}, by the ledger {there!r}"
        )


def _check_frames(reader: ShardReader, videos: dict[str, Video]) -> Iterator[str]:
    """Every frame is there and has its checksum, one of each video is decoded, and the counts add up."""
    stride, frames, size = reader.header.stride, 0, 0
    if sorted(video.number for video in videos.values()) != list(range(len(videos))):
        yield f"shard {reader.path}: its videos are not numbered from 0 to {len(videos) - 1}"
    for video_id, video in videos.items():
        stored = range(0, video.num_frames, stride)
        jpegs = reader.jpegs(video_id, stored)
        frames, size = frames + len(jpegs), size + sum(map(len, jpegs))
        if tuple(map(zlib.crc32, jpegs)) != reader.checksums(video_id):
            yield f"shard {reader.path}: video {video_id}: its frames do not have their checksums"
        reader.frames(video_id, [stored[video.number % len(stored)]])
    counted = {"videos": len(videos), "frames": frames, "bytes": size}
    if counted != reader.counts():
        yield f"shard {reader.path} holds {counted}, its closing record says {reader.counts()}"


def _check_ledger(part: Part, reader: ShardReader, videos: dict[str, Video]) -> Iterator[str]:
    """The ledger's good videos are the shard's, with the same figures."""
    compared = ("class_index", "num_frames", "width", "height")
    listed = _good_rows(part.ledger, compared)
    yield from _check_places(part, part.ledger, listed)
    rows = {row["video_id"]: row for row in listed}
    yield from _check_names(f"shard {reader.path} and its ledger", set(videos), set(rows))
    stored = {video_id: asdict(video) for video_id, video in videos.items()}
    for video_id, difference in _differences(stored, rows, compared, "its ledger says"):
        yield f"shard {reader.path}: video {video_id} has {difference}"


def _check_places(part: Part, ledger: Path, rows: list[Row]) -> Iterator[str]:
    """A ledger lists no video twice, and those of its own part: files of two parts may have been swapped."""
    if twice := _twice(row["video_id"] for row in rows):
        yield f"ledger {ledger} lists {len(twice)} videos more than once: {some_of(twice)}"
    own = {"split": part.split, "part": part.name}
    places = {tuple(row.get(name, own[name]) for name in own) for row in rows} - {tuple(own.values())}
    if places:
        named = some_of("/".join(map(str, place)) for place in sorted(places, key=str))
        yield f"ledger {ledger}, and so what it is of, is that of {named}"


def verify_manifest(config: Config, parts: list[Part]) -> list[str]:
    """The manifest's good videos are those of the ledgers, with the same figures; dataset.json is its own."""
    path, problems = config.dataset.paths.manifest, list(account_problems(config))
    compared = ("class_index", "num_frames", "width", "height", "bytes")
    try:
        rows = _good_rows(path, ("split", "part", *compared), "manifest")
    except V4DError as error:
        return problems or [f"{error}; {MANIFEST_ANEW}"]
    listed = {(row["split"], row["part"], row["video_id"]): row for row in rows}
    ledgers: dict[tuple[str, str, str], Row] = {}
    for part in parts:
        try:
            rows = _good_rows(part.ledger, compared)
            ledgers |= {(part.split, part.name, row["video_id"]): row for row in rows}
        except V4DError as error:
            problems.append(f"{error}; to make it anew: {_way_to_shard(part)}")
    # The same id in two archives is one video of the manifest.
    left, right = ({(split, video_id) for split, _, video_id in keys} for keys in (listed, ledgers))
    contradictions = _check_names("manifest and ledgers", left, right)
    where: dict[tuple[str, str], list[str]] = {}
    for split, name, video_id in ledgers:
        where.setdefault((split, video_id), []).append(name)
    for split, name, video_id in sorted(listed.keys() - ledgers.keys(), key=str):
        if others := where.get((split, video_id)):
            by_ledgers = f"by the ledgers it is in {' and '.join(others)}"
            contradictions.append(f"manifest: {split}/{video_id} has part {name}, {by_ledgers}")
    for key, difference in _differences(listed, ledgers, compared, "its ledger"):
        contradictions.append(f"manifest: {'/'.join(key)} has {difference}")
    problems += [f"{problem}; {MANIFEST_ANEW}" for problem in contradictions]
    return problems + _other_dataset(config)


def _other_dataset(config: Config) -> list[str]:
    """Whether dataset.json is that of another data set; what it may say else `account_problems` has held."""
    try:
        info = dataset_info(config)
    except V4DError:  # was said
        return []
    path, own = config.dataset.paths.info, {"name": config.dataset.name, "source": config.dataset.source}
    return [
        f"{path}: its {key} is {info[key]!r}, not {own[key]!r}; {MANIFEST_ANEW}"
        for key in own
        if info.get(key, own[key]) != own[key]
    ]


def _differences(
    left: dict[Any, Row], right: dict[Any, Row], columns: tuple[str, ...], says: str
) -> Iterator[tuple[Any, str]]:
    """Where two tables have different figures for one key: the key, and both figures in words."""
    for key in sorted(left.keys() & right.keys()):
        for name in columns:
            if left[key][name] != right[key][name]:
                yield key, f"{name} {left[key][name]}, {says} {right[key][name]}"


def _check_names(what: str, left: set[Any], right: set[Any], unit: str = "videos") -> list[str]:
    odd = sorted(map(str, left ^ right))
    return [f"{what} differ in {len(odd)} {unit}: {some_of(odd)}"] if odd else []


def _twice(names: Iterable[str]) -> list[str]:
    return sorted(str(name) for name, count in Counter(names).items() if count > 1)


def _parts(config: Config) -> Iterator[Part]:
    source, paths = open_source(config.dataset), config.dataset.paths
    for split in config.dataset.splits:
        for name in source.parts(split):
            places = (paths.shard, paths.frames_ledger, paths.clips, paths.clips_ledger)
            # Absolute paths: children start in a folder of their own.
            yield Part(split, name, *(place(split, name).absolute() for place in places))


def _good_rows(path: Path, columns: tuple[str, ...], what: str = "ledger") -> list[Row]:
    """The good videos of a ledger, or of the manifest; V4DError where it lacks one of the columns."""
    table = read_ledger(path, what)
    if absent := {"video_id", "status", *columns} - set(table.column_names):
        raise V4DError(f"{what} {path} is damaged: it has no column {', '.join(sorted(absent))}")
    try:
        return [row for row in table.to_pylist() if row["status"] == "ok"]
    except ValueError as error:  # text that is no UTF-8 any more
        raise V4DError(f"{what} {path} is damaged: {error}") from error
