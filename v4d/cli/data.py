"""The commands of the data set: what should exist, bringing it, transcoding, decoding, counting, checking."""

import os
from argparse import Namespace
from collections.abc import Mapping

from v4d.cli.command import CONFIG, argument, command, config_argument, load_config
from v4d.errors import V4DError

SPLIT = argument("--split", required=True, help="split, e.g. train")
PART = argument("--part", required=True, help="part, e.g. part_0")


@command(CONFIG, argument("--only", nargs="+", help="splits, or `classes`: write no other tables than these"))
def annotations(args: Namespace) -> None:
    """Write the tables of what should exist: data/<dataset>/annotations/{classes.json, <split>.parquet}.

    Example: v4d annotations --config config/config.yaml
    """
    from v4d.datasets.annotations import write_annotations

    dataset = load_config(args).dataset
    for split, count in write_annotations(dataset, args.only).items():
        print(f"{split}: {count} videos annotated")


@command(CONFIG, SPLIT, PART)
def download(args: Namespace) -> None:
    """Bring one archive of videos: data/<dataset>/archives/<split>/<part>.tar.gz.

    Example: v4d download --config config/config.yaml --split train --part part_0
    """
    from v4d.datasets import open_source

    print(open_source(load_config(args).dataset).download(args.split, args.part))


@command(
    CONFIG, SPLIT, PART, argument("--threads", type=int, default=1, help="videos at a time (default: 1)")
)
def clips(args: Namespace) -> None:
    """Transcode the videos of one part: data/<dataset>/clips/<split>/<part>.{tar,parquet}.

    Example: v4d clips --config config/config.yaml --split train --part part_0 --threads 4
    """
    from v4d.preprocessing.clips import transcode_part

    config = load_config(args)
    ledger = transcode_part(config.dataset, config.clips, args.split, args.part, max(1, args.threads))
    _print_counts(args, ledger["status"].value_counts())


@command(CONFIG, SPLIT, PART, argument("--threads", type=int, default=1, help="clips at a time (default: 1)"))
def frames(args: Namespace) -> None:
    """Decode the clips of one part into a shard: data/<dataset>/frames/<split>/<part>.{lmdb,parquet}.

    Example: v4d frames --config config/config.yaml --split train --part part_0 --threads 4
    """
    from v4d.preprocessing.frames import extract_part

    config = load_config(args)
    _print_counts(args, extract_part(config.dataset, config.frames, args.split, args.part, args.threads))


@command(CONFIG)
def manifest(args: Namespace) -> None:
    """Account for every video: data/<dataset>/{manifest.parquet, dataset.json, missing.csv, quarantine.csv}.

    Example: v4d manifest --config config/config.yaml
    """
    from v4d.datasets import open_source
    from v4d.preprocessing.manifest import counts_table, write_manifest

    config = load_config(args)
    info = write_manifest(config)
    table = counts_table(config)
    print(f"data set {info['name']}, fingerprint {info['fingerprint'][:16]}, {info['classes']} classes")
    print(table.astype(object).where(table.notna(), "-").to_string())
    published = open_source(config.dataset).published()
    if published and published.counts is not None:
        print(f"published: {published.origin}")


@command(
    argument("what", nargs="?", choices=["shards", "archives"], default="shards"),
    CONFIG,
    argument("--threads", type=int, default=1, help="shards at a time (default: 1)"),
)
def verify(args: Namespace) -> None:
    """Check what is on disk: shards byte by byte, clips, ledgers, manifest; or the archives that were kept.

    Example: v4d verify --config config/config.yaml --threads 4
    """
    from v4d.datasets import open_source
    from v4d.preprocessing.verify import verify_dataset

    config = load_config(args)
    root = config.dataset.root
    if args.what == "shards":
        problems: list[str] | None = verify_dataset(config, threads=args.threads)
    else:
        problems = open_source(config.dataset).verify_archives()
    if problems is None:
        print(f"{root}: none of its archives was downloaded, so there is nothing to hold them against")
        return
    for problem in problems:
        print(problem)
    if problems:
        raise V4DError(f"{root}: {args.what} are not as they should be: {problems[0]}")
    print(f"{root}: {args.what} are as they should be")


@command(
    config_argument("config files, each laid over the one before", required=True, nargs="+"),
    argument("--cores", type=int, default=os.cpu_count(), help="cores to count with (default: all)"),
)
def estimate(args: Namespace) -> None:
    """What a config will cost before anything runs: download, disk and CPU hours, by stage.

    Example: v4d estimate --config config/kinetics400.yaml --cores 16
    """
    from v4d.preprocessing import estimate as costs
    from v4d.utils.files import free_bytes

    config = load_config(args)
    table = costs.estimate(config)
    print(table.to_string(float_format=lambda number: f"{number:,.3g}"))
    for line in costs.summary(table, cores=args.cores, free=free_bytes(config.dataset.root)):
        print(line)


def _print_counts(args: Namespace, counts: Mapping[str, int]) -> None:
    """One line: how many videos of a part have which status."""
    print(f"{args.split}/{args.part}: " + ", ".join(f"{count} {status}" for status, count in counts.items()))
