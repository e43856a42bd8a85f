"""Checking what is on disk: every byte of every shard, shards against ledgers, those against the manifest."""

import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from v4d.config import Config
from v4d.data.shards import ShardReader, Video, open_store
from v4d.datasets import open_source
from v4d.errors import V4DError
from v4d.preprocessing.ledger import read_ledger
from v4d.utils.processes import run_in_children
from v4d.utils.progress import progress
from v4d.utils.text import some_of

Row = dict[str, Any]
_SHARD_SECONDS = 6 * 3600


@dataclass(frozen=True)
class Part:
    """A part's shard and ledger."""

    split: str
    name: str
    shard: Path
    ledger: Path


def verify_dataset(config: Config, *, threads: int = 1) -> list[str]:
    """Check all shards, ledgers and the manifest of a config's data set; a line for each thing that is wrong.

    A damaged shard is named with the command that makes it anew; no other part is touched by that.
    """
    parts = list(_parts(config))
    if not parts:
        return [f"{config.dataset.root}: there are no parts to check"]
    processes = max(1, min(threads, len(parts)))
    outcomes = run_in_children(verify_part, parts, processes=processes, deadline=_SHARD_SECONDS)
    shown = progress(outcomes, total=len(parts), what="verify", unit="shards")
    problems = []
    for part, outcome in zip(parts, shown, strict=True):
        found = outcome.value
        if outcome.failure:
            found = [f"shard {part.shard}: checking it ended with {outcome.failure}: {outcome.reason}"]
        if found:
            problems += [*found, f"to make {part.shard} anew: {_way_to_make(config, part)}"]
    return problems + verify_manifest(config, parts)


def _way_to_make(config: Config, part: Part) -> str:
    if config.dataset.paths.clips(part.split, part.name).exists():
        return f"v4d frames --config ... --split {part.split} --part {part.name}"
    return "delete it and run snakemake, which makes its clips again; they are not here"


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
    rows = {row["video_id"]: row for row in _good_rows(part.ledger, compared)}
    yield from _check_names(f"shard {reader.path} and its ledger", set(videos), set(rows))
    stored = {video_id: asdict(video) for video_id, video in videos.items()}
    for video_id, difference in _differences(stored, rows, compared, "its ledger says"):
        yield f"shard {reader.path}: video {video_id} has {difference}"


def verify_manifest(config: Config, parts: list[Part]) -> list[str]:
    """The manifest's good videos are those of the ledgers, with the same figures."""
    path = config.dataset.paths.manifest
    compared = ("class_index", "num_frames", "width", "height", "bytes")
    try:
        rows = _good_rows(path, ("split", "part", *compared), "manifest")
    except V4DError as error:
        return [f"{error}; `v4d manifest` makes it"]
    listed = {(row["split"], row["part"], row["video_id"]): row for row in rows}
    ledgers: dict[tuple[str, str, str], Row] = {}
    problems = []
    for part in parts:
        try:
            rows = _good_rows(part.ledger, compared)
            ledgers |= {(part.split, part.name, row["video_id"]): row for row in rows}
        except V4DError as error:
            problems.append(str(error))
    # The same id in two archives is one video of the manifest.
    names = [{(split, video_id) for split, _, video_id in keys} for keys in (listed, ledgers)]
    problems += _check_names("manifest and ledgers", *names)
    for key, difference in _differences(listed, ledgers, compared, "its ledger"):
        problems.append(f"manifest: {'/'.join(key)} has {difference}")
    return problems


def _differences(
    left: dict[Any, Row], right: dict[Any, Row], columns: tuple[str, ...], says: str
) -> Iterator[tuple[Any, str]]:
    """Where two tables have different figures for one key: the key, and both figures in words."""
    for key in sorted(left.keys() & right.keys()):
        for name in columns:
            if left[key][name] != right[key][name]:
                yield key, f"{name} {left[key][name]}, {says} {right[key][name]}"


def _check_names(what: str, left: set[Any], right: set[Any]) -> list[str]:
    odd = sorted(map(str, left ^ right))
    return [f"{what} differ in {len(odd)} videos: {some_of(odd)}"] if odd else []


def _parts(config: Config) -> Iterator[Part]:
    source, paths = open_source(config.dataset), config.dataset.paths
    for split in config.dataset.splits:
        for name in source.parts(split):  # absolute paths: children start in a folder of their own
            shard, ledger = paths.shard(split, name), paths.frames_ledger(split, name)
            yield Part(split, name, shard.absolute(), ledger.absolute())


def _good_rows(path: Path, columns: tuple[str, ...], what: str = "ledger") -> list[Row]:
    """The good videos of a ledger, or of the manifest; V4DError where it lacks one of the columns."""
    table = read_ledger(path, what)
    if absent := {"video_id", "status", *columns} - set(table.column_names):
        raise V4DError(f"{what} {path} is damaged: it has no column {', '.join(sorted(absent))}")
    try:
        return [row for row in table.to_pylist() if row["status"] == "ok"]
    except ValueError as error:  # text that is no UTF-8 any more
        raise V4DError(f"{what} {path} is damaged: {error}") from error
