"""Transcode the videos of one part: data/<dataset>/clips/<split>/<part>.{tar,parquet}."""

import argparse

from v4d import config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="config file")
    parser.add_argument("--split", required=True, help="split, e.g. train")
    parser.add_argument("--part", required=True, help="part, e.g. part_0")
    parser.add_argument("--threads", type=int, default=1, help="videos at a time (default: 1)")


def run(args: argparse.Namespace) -> None:
    from v4d.preprocessing.clips import transcode_part

    settings = config.load(args.config)
    table = transcode_part(settings.dataset, settings.clips, args.split, args.part, max(1, args.threads))
    counts = table["status"].value_counts()
    print(f"{args.split}/{args.part}: " + ", ".join(f"{count} {status}" for status, count in counts.items()))
