"""The account of a data set: every video that should exist, and what became of it.

data/<dataset>/manifest.parquet   MANIFEST_COLUMNS, a row a video
data/<dataset>/dataset.json       counts by split and status, settings, and the fingerprint
data/<dataset>/missing.csv        annotated, in no archive
data/<dataset>/quarantine.csv     there, and not usable, with the decoder's own words
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas

from v4d.config import Config, preparation_settings
from v4d.data.index import class_names, read_manifest, read_table
from v4d.datasets.annotations import YOUTUBE, missing_reason, part_names
from v4d.errors import V4DError
from v4d.utils.files import atomic_path, write_json

MANIFEST_COLUMNS = [
    "video_id",
    "label",
    "class_index",
    "split",
    "part",
    "status",
    "reason",
    "num_frames",
    "fps",
    "width",
    "height",
    "bytes",
]

_NAMED = 10
"""Parts that a message names."""


def write_manifest(config: Config) -> dict[str, Any]:
    """Join annotations and ledgers, check that the counts add up, and write the files above.

    Returns:
        What dataset.json holds.

    Raises:
        V4DError: a ledger is missing, names a video that was not annotated, or disagrees with its shard.
    """
    root = config.dataset.root
    tables = [_split_manifest(config, split) for split in config.dataset.splits]
    manifest = pandas.concat(tables, ignore_index=True)
    info = {
        "name": config.dataset.name,
        "source": config.dataset.source,
        "fingerprint": _fingerprint(config, manifest),
        "classes": len(class_names(config)),
        "counts": _counts(manifest),
        "settings": preparation_settings(config),
    }
    with atomic_path(root / "manifest.parquet") as temporary:
        manifest.to_parquet(temporary, index=False)
    _write_csv(root / "missing.csv", manifest[manifest["status"] == "missing"])
    _write_csv(root / "quarantine.csv", manifest[~manifest["status"].isin(["ok", "missing"])])
    write_json(root / "dataset.json", info)
    return info


def counts_table(config: Config) -> pandas.DataFrame:
    """What was found: a row a split, with a column a reason of loss; NA where there is nothing to say.

    Of Kinetics also how many are in the archives, in any state, and below what was found what others have
    found there: a row `published`, whose `ok` is the V4D authors' own copy.
    """
    from v4d.datasets.kinetics import published_counts

    manifest = read_manifest(config)
    published = published_counts(config.dataset)
    archived = manifest[(manifest["status"] != "missing") & (manifest["part"] != YOUTUBE)]
    statuses = sorted(set(manifest["status"]) - {"ok"})
    rows: dict[str, dict[str, int]] = {}
    for split, counts in _counts(manifest).items():
        found = {"annotated": counts["annotated"]}
        if config.dataset.source == "kinetics":
            found["in_archives"] = int((archived["split"] == split).sum())
        rows[f"{split} found"] = found | {name: counts.get(name, 0) for name in ["ok", *statuses]}
        if published is not None and split in published.index:
            rows[f"{split} published"] = published.rename(columns={"authors_copy": "ok"}).loc[split].to_dict()
    columns = list(next(iter(rows.values())))
    return pandas.DataFrame.from_dict(rows, orient="index", columns=columns).astype("Int64")


def _split_manifest(config: Config, split: str) -> pandas.DataFrame:
    root = config.dataset.root
    annotated = read_table(root / "annotations" / f"{split}.parquet")
    if annotated["video_id"].duplicated().any():
        twice = annotated.loc[annotated["video_id"].duplicated(), "video_id"].iloc[0]
        raise V4DError(f"annotations of {split}: {twice} is listed twice")
    parts = part_names(config.dataset, split)
    _check_finished(config, split, parts)
    ledgers = [_checked_ledger(root, split, part, config.dataset.max_bad_share) for part in parts]
    found = pandas.concat(ledgers, ignore_index=True)
    strangers = set(found["video_id"]) - set(annotated["video_id"])
    if strangers:
        raise V4DError(
            f"ledgers of {split} hold {len(strangers)} videos without annotation: {min(strangers)}"
        )
    # An id in two archives: the usable one counts, else the first.
    found = found.sort_values("status", key=lambda s: s != "ok", kind="stable").drop_duplicates("video_id")
    columns = [name for name in found.columns if name not in ("label", "class_index", "split")]
    table = annotated.drop(columns="part").merge(found[columns], on="video_id", how="left", validate="1:1")
    absent = table["status"].isna()
    table.loc[absent, "status"] = "missing"
    table.loc[absent, "reason"] = missing_reason(config.dataset, split)
    table["part"] = table["part"].fillna("")
    table["reason"] = table["reason"].fillna("")
    for name in ("num_frames", "width", "height", "bytes"):
        table[name] = table[name].fillna(0).astype("int64")
    extra = [name for name in table.columns if name not in MANIFEST_COLUMNS]
    return table[MANIFEST_COLUMNS + extra]


def _check_finished(config: Config, split: str, parts: list[str]) -> None:
    """Name every part that is not done, and the way to do without."""
    folder = config.dataset.root / "frames" / split
    absent = [part for part in parts if not (folder / f"{part}.parquet").exists()]
    if absent:
        named = ", ".join(f"{split}/{part}" for part in absent[:_NAMED]) + (
            ", ..." if absent[_NAMED:] else ""
        )
        message = f"{len(absent)} of {len(parts)} parts are not done: {named}"
        if config.dataset.source == "kinetics":
            message += "; dataset.kinetics.give_up makes the data set without them"
        raise V4DError(f"{message} (no such file: {folder / absent[0]}.parquet)")


def _checked_ledger(root: Path, split: str, part: str, max_bad_share: float) -> pandas.DataFrame:
    """A part's ledger, held against its shard: the same videos, as many."""
    from v4d.data.shards import ShardReader

    ledger = read_table(root / "frames" / split / f"{part}.parquet")
    if ledger["video_id"].duplicated().any():
        raise V4DError(f"ledger of {split}/{part} names a video twice")
    usable = set(ledger.loc[ledger["status"] == "ok", "video_id"])
    shard = set(ShardReader(root / "frames" / split / f"{part}.lmdb").video_ids)
    if usable != shard:
        odd = min(usable ^ shard)
        raise V4DError(
            f"{split}/{part}: ledger and shard differ in {len(usable ^ shard)} videos, e.g. {odd}; "
            f"extract this part again"
        )
    if part != YOUTUBE:
        clips = read_table(root / "clips" / split / f"{part}.parquet")
        made = clips.loc[clips["status"] == "ok", "video_id"]
        for statuses in (clips["status"], ledger.loc[ledger["video_id"].isin(made), "status"]):
            _check_share(statuses, f"{split}/{part}", max_bad_share)
    return ledger


def _check_share(statuses: pandas.Series, part: str, max_bad_share: float) -> None:
    """As when the part was made: the share may have been lowered since, which makes no part anew."""
    bad = int((statuses != "ok").sum())
    if bad > max_bad_share * len(statuses):
        raise V4DError(
            f"{part}: {bad} of {len(statuses)} videos are bad, more than dataset.max_bad_share "
            f"{max_bad_share:.0%} allows"
        )


def _counts(manifest: pandas.DataFrame) -> dict[str, dict[str, int]]:
    """`{split: {"annotated": n, status: n, ...}}`; that it adds up is checked, not assumed."""
    counts = {}
    for split, rows in manifest.groupby("split", sort=False):
        by_status = {str(status): int(n) for status, n in rows["status"].value_counts().items()}
        if sum(by_status.values()) != len(rows) or by_status.get("ok", 0) != (rows["num_frames"] > 0).sum():
            raise V4DError(f"{split}: the counts do not add up: {by_status} of {len(rows)}")
        counts[str(split)] = {"annotated": len(rows), "ok": by_status.pop("ok", 0), **by_status}
    return counts


def _fingerprint(config: Config, manifest: pandas.DataFrame) -> str:
    """sha256 over what training sees: classes, usable videos with their lengths and sizes, settings."""
    digest = hashlib.sha256()
    digest.update(json.dumps([class_names(config), preparation_settings(config)], sort_keys=True).encode())
    usable = manifest[manifest["status"] == "ok"].sort_values(["split", "video_id"])
    for row in usable[["split", "video_id", "class_index", "num_frames", "bytes"]].itertuples(index=False):
        digest.update("\t".join(map(str, row)).encode() + b"\n")
    return digest.hexdigest()


def _write_csv(path: Path, table: pandas.DataFrame) -> None:
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False)
