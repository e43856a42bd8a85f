"""The account of a data set: every video that should exist, and what became of it.

data/<dataset>/manifest.parquet   MANIFEST_COLUMNS, a row a video
data/<dataset>/dataset.json       counts by split and status, settings, and the fingerprint
data/<dataset>/missing.csv        annotated, in no archive
data/<dataset>/quarantine.csv     there, and not usable, with the decoder's own words
"""

from typing import Any

import pandas

from v4d.config import Config, preparation_settings
from v4d.data.account import counts, fingerprint
from v4d.data.index import class_names, read_manifest, read_table
from v4d.data.shards import open_store
from v4d.datasets import DataSource, open_source
from v4d.errors import V4DError
from v4d.preprocessing.ledger import LEDGER_COLUMNS, check_bad_share
from v4d.utils.files import atomic_path, write_csv, write_json
from v4d.utils.text import some_of

MANIFEST_COLUMNS = list(LEDGER_COLUMNS)[:12]
"""video_id to bytes; further columns of the tables follow."""


def write_manifest(config: Config) -> dict[str, Any]:
    """Join annotations and ledgers, check that the counts add up, and write the files above.

    Returns:
        What dataset.json holds.

    Raises:
        V4DError: a ledger is missing, names a video that was not annotated, or disagrees with its shard.
    """
    source, paths = open_source(config.dataset), config.dataset.paths
    tables = [_split_manifest(source, split) for split in config.dataset.splits]
    manifest = pandas.concat(tables, ignore_index=True)
    classes, settings = class_names(config), preparation_settings(config)
    info = {
        "name": config.dataset.name,
        "source": config.dataset.source,
        "fingerprint": fingerprint(classes, settings, manifest),
        "classes": len(classes),
        "counts": counts(manifest),
        "settings": settings,
    }
    with atomic_path(paths.manifest) as temporary:
        manifest.to_parquet(temporary, index=False)
    write_csv(paths.missing, manifest[manifest["status"] == "missing"])
    write_csv(paths.quarantine, manifest[~manifest["status"].isin(["ok", "missing"])])
    write_json(paths.info, info)
    return info


def counts_table(config: Config) -> pandas.DataFrame:
    """What was found: a row a split, with a column a reason of loss; NA where there is nothing to say.

    Where archives may lack videos also how many are in them, in any state, and below what was found what
    others have found there: a row `published`, whose `ok` is the authors' own copy.
    """
    source, manifest = open_source(config.dataset), read_manifest(config)
    published, archived = source.published(), source.in_archives(manifest)
    statuses = sorted(set(manifest["status"]) - {"ok"})
    rows: dict[str, dict[str, int]] = {}
    for split, by_status in counts(manifest).items():
        found = {"annotated": by_status["annotated"]}
        if archived is not None:
            found["in_archives"] = int(archived.get(split, 0))
        rows[f"{split} found"] = found | {name: by_status.get(name, 0) for name in ["ok", *statuses]}
        if published is not None and published.counts is not None and split in published.counts.index:
            theirs = published.counts.rename(columns={"authors_copy": "ok"})
            rows[f"{split} published"] = theirs.loc[split].to_dict()
    columns = list(next(iter(rows.values())))
    return pandas.DataFrame.from_dict(rows, orient="index", columns=columns).astype("Int64")


def _split_manifest(source: DataSource, split: str) -> pandas.DataFrame:
    annotated = read_table(source.paths.annotations(split))
    if annotated["video_id"].duplicated().any():
        twice = annotated.loc[annotated["video_id"].duplicated(), "video_id"].iloc[0]
        raise V4DError(f"annotations of {split}: {twice} is listed twice")
    parts = source.parts(split)
    _check_finished(source, split, parts)
    found = pandas.concat([_checked_ledger(source, split, part) for part in parts], ignore_index=True)
    strangers = set(found["video_id"]) - set(annotated["video_id"])
    if strangers:
        raise V4DError(
            f"ledgers of {split} hold {len(strangers)} videos without annotation: {min(strangers)}"
        )
    # An id in two archives: the usable one counts, else the first.
    found = found.sort_values("status", key=lambda s: s != "ok", kind="stable").drop_duplicates("video_id")
    columns = [name for name in found.columns if name not in ("label", "class_index", "split")]
    table = annotated.drop(columns="part").merge(found[columns], on="video_id", how="left", validate="1:1")
    table.loc[table["status"].isna(), "reason"] = source.missing_reason(split)
    zeros = dict.fromkeys(("num_frames", "width", "height", "bytes"), 0)
    table = table.fillna({"status": "missing", "part": "", "reason": "", **zeros})
    table = table.astype(dict.fromkeys(zeros, "int64"))
    extra = [name for name in table.columns if name not in MANIFEST_COLUMNS]
    return table[MANIFEST_COLUMNS + extra]


def _check_finished(source: DataSource, split: str, parts: list[str]) -> None:
    """Name every part that is not done, and the way to do without."""
    absent = [part for part in parts if not source.paths.frames_ledger(split, part).exists()]
    if absent:
        message = f"{len(absent)} of {len(parts)} parts are not done: "
        message += some_of((f"{split}/{part}" for part in absent), 10)
        message += f"; {source.unfinished_hint}" if source.unfinished_hint else ""
        raise V4DError(f"{message} (no such file: {source.paths.frames_ledger(split, absent[0])})")


def _checked_ledger(source: DataSource, split: str, part: str) -> pandas.DataFrame:
    """A part's ledger, held against its shard: the same videos, as many."""
    paths, name = source.paths, f"{split}/{part}"
    ledger = read_table(paths.frames_ledger(split, part))
    if ledger["video_id"].duplicated().any():
        raise V4DError(f"ledger of {name} names a video twice")
    usable = set(ledger.loc[ledger["status"] == "ok", "video_id"])
    odd = usable ^ set(open_store(paths.shard(split, part)).video_ids)
    if odd:
        raise V4DError(
            f"{name}: ledger and shard differ in {len(odd)} videos, e.g. {min(odd)}; extract this part again"
        )
    # Again, as when the part was made: the share may have been lowered since, which makes no part anew.
    clips = read_table(paths.clips_ledger(split, part))
    made = clips.loc[clips["status"] == "ok", "video_id"]
    for table in (clips, ledger[ledger["video_id"].isin(made)]):
        rows = table[["video_id", "status", "reason"]].to_dict("records")
        check_bad_share(name, rows, source.max_bad_share(split, part))
    return ledger
