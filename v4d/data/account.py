"""Whether classes.json, manifest.parquet and dataset.json of a finished data set agree.

`v4d verify` lists what does not; a training and a test begin with `check_dataset`, which reads no frames.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pandas

from v4d.config import Config, preparation_settings
from v4d.data.index import class_names, dataset_info, read_manifest
from v4d.data.shards import open_store
from v4d.errors import V4DError
from v4d.utils.text import some_of

MANIFEST_ANEW = "`v4d manifest` makes it anew"
ALL_ANEW = "`v4d annotations --only classes` and then `v4d manifest` make them anew"
_COLUMNS = ("video_id", "label", "class_index", "split", "part", "status", "num_frames", "bytes")
_OPENING_THREADS = 8


def check_dataset(config: Config, splits: Collection[str]) -> None:
    """Refuse a data set whose account was changed, or whose shards of some splits are not whole.

    Each shard has the length that its seal records, and the right first 128 KiB. What else is in it only
    `v4d verify` reads.

    Raises:
        V4DError: the first thing that is wrong, and how to make it right.
    """
    for problem in account_problems(config):
        raise V4DError(problem)
    manifest = read_manifest(config)
    used = manifest[manifest["split"].isin(splits) & (manifest["status"] == "ok")]
    places = used[["split", "part"]].drop_duplicates().itertuples(index=False)
    shards = [config.dataset.paths.shard(split, part) for split, part in places]
    with ThreadPoolExecutor(_OPENING_THREADS) as pool:
        try:
            list(pool.map(open_store, shards))
        except V4DError as error:
            raise V4DError(f"{error}; `v4d verify` says how to make it anew") from error


def account_problems(config: Config) -> Iterator[str]:
    """A line for each thing by which classes.json, manifest and dataset.json contradict one another.

    What an older dataset.json does not have is left out.
    """
    found: list[Any] = []
    for read in (class_names, read_manifest, dataset_info):
        try:
            found.append(read(config))
        except V4DError as error:
            yield str(error)
    if len(found) < 3:
        return
    classes, manifest, info = found
    path = config.dataset.paths.manifest
    if absent := set(_COLUMNS) - set(manifest.columns):
        yield f"{path} is damaged: it has no column {', '.join(sorted(absent))}; {MANIFEST_ANEW}"
        return
    try:
        yield from _contradictions(config, classes, manifest, info)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # a column of another type
        yield f"{path} is damaged: {error}; {MANIFEST_ANEW}"


def _contradictions(
    config: Config, classes: list[str], manifest: pandas.DataFrame, info: dict[str, Any]
) -> Iterator[str]:
    paths, whole = config.dataset.paths, True
    for problem in (*_row_problems(config, classes, manifest), *_count_problems(config, manifest, info)):
        whole = False
        yield problem
    if info.get("classes", len(classes)) != len(classes):
        whole = False
        yield f"{paths.classes} has {len(classes)} classes, {paths.info} says {info['classes']}; {ALL_ANEW}"
    if whole:  # else it differs for what was said
        now = fingerprint(classes, info.get("settings") or preparation_settings(config), manifest)
        if info.get("fingerprint") != now:
            yield (
                f"{paths.info}: its fingerprint {str(info.get('fingerprint'))[:16]} is not that of "
                f"{paths.classes.name} and {paths.manifest.name}, {now[:16]}: one of the three was changed; "
                f"{ALL_ANEW}"
            )


def _row_problems(config: Config, classes: list[str], manifest: pandas.DataFrame) -> Iterator[str]:
    """No video is listed twice, and every label is the name of its class."""
    paths = config.dataset.paths
    again = manifest[manifest.duplicated(["split", "video_id"])]
    if len(again):
        names = (again["split"] + "/" + again["video_id"]).unique()
        yield f"{paths.manifest} lists {len(names)} videos more than once: {some_of(names)}; {MANIFEST_ANEW}"
    named = dict(enumerate(classes))
    odd = manifest[manifest["class_index"].map(named) != manifest["label"]]
    if len(odd):
        row = odd.iloc[0]
        yield (
            f"{paths.manifest}: {len(odd)} videos have other labels than {paths.classes.name}, e.g. "
            f"{row['video_id']}: class_index {row['class_index']} is {row['label']!r}, and "
            f"{named.get(row['class_index'], 'no class')!r} there; {ALL_ANEW}"
        )


def _count_problems(config: Config, manifest: pandas.DataFrame, info: dict[str, Any]) -> Iterator[str]:
    paths = config.dataset.paths
    try:
        now = counts(manifest)
    except V4DError as error:
        yield f"{paths.manifest}: {error}; {MANIFEST_ANEW}"
        return
    if (then := info.get("counts", now)) != now:
        yield f"{paths.info} counts {then}, {paths.manifest.name} has {now}; {MANIFEST_ANEW}"


def counts(manifest: pandas.DataFrame) -> dict[str, dict[str, int]]:
    """`{split: {"annotated": n, status: n, ...}}`.

    Raises:
        V4DError: they do not add up.
    """
    found = {}
    for split, rows in manifest.groupby("split", sort=False):
        by_status = status_counts(rows["status"].tolist())
        if sum(by_status.values()) != len(rows) or by_status.get("ok", 0) != (rows["num_frames"] > 0).sum():
            raise V4DError(f"{split}: the counts do not add up: {by_status} of {len(rows)}")
        found[str(split)] = {"annotated": len(rows), "ok": by_status.pop("ok", 0), **by_status}
    return found


def status_counts(statuses: Iterable[str]) -> dict[str, int]:
    """The number of videos of each status, the most frequent first."""
    return dict(Counter(statuses).most_common())


def fingerprint(classes: list[str], settings: dict[str, Any], manifest: pandas.DataFrame) -> str:
    """sha256 over what training sees: classes, usable videos with their lengths and sizes, settings."""
    columns = ["split", "video_id", "class_index", "num_frames", "bytes"]
    usable = manifest.loc[manifest["status"] == "ok", columns].sort_values(columns[:2])
    rows = zip(*(usable[name].tolist() for name in columns), strict=True)
    text = "".join([f"{a}\t{b}\t{c}\t{d}\t{e}\n" for a, b, c, d, e in rows])  # half the time of a join a row
    head = json.dumps([classes, settings], sort_keys=True)
    return hashlib.sha256(f"{head}{text}".encode()).hexdigest()
