"""Decode the clips of one part into a shard: data/<dataset>/frames/<split>/<part>.{lmdb,parquet}."""

import argparse

from v4d import config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="config file")
    parser.add_argument("--split", required=True, help="split, e.g. train")
    parser.add_argument("--part", required=True, help="part, e.g. part_0")
    parser.add_argument("--threads", type=int, default=1, help="clips at a time (default: 1)")


def run(args: argparse.Namespace) -> None:
    from v4d.preprocessing.frames import extract_part

    settings = config.load(args.config)
    counts = extract_part(settings.dataset, settings.frames, args.split, args.part, max(1, args.threads))
    print(f"{args.split}/{args.part}: " + ", ".join(f"{count} {status}" for status, count in counts.items()))
