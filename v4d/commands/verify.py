"""Check what is on disk: shards byte by byte, ledgers and manifest; or the archives that were kept."""

import argparse

from v4d import config
from v4d.errors import V4DError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="?", choices=["shards", "archives"], default="shards")
    parser.add_argument("--config", required=True, help="config file")
    parser.add_argument("--threads", type=int, default=1, help="shards at a time (default: 1)")


def run(args: argparse.Namespace) -> None:
    settings = config.load(args.config)
    root = settings.dataset.root
    if args.what == "archives":
        from v4d.datasets import open_source

        problems = open_source(settings.dataset).verify_archives()
        if problems is None:
            print(f"{root}: none of its archives was downloaded, so there is nothing to hold them against")
            return
    else:
        from v4d.preprocessing.verify import verify_dataset

        problems = verify_dataset(settings, threads=max(1, args.threads))
    for problem in problems:
        print(problem)
    if problems:
        raise V4DError(f"{root}: {args.what} are not as they should be: {problems[0]}")
    print(f"{root}: {args.what} are as they should be")
