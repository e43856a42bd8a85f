"""Bring one archive of videos: data/<dataset>/archives/<split>/<part>.tar.gz."""

import argparse

from v4d import config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="config file")
    parser.add_argument("--split", required=True, help="split, e.g. train")
    parser.add_argument("--part", required=True, help="part, e.g. part_0")


def run(args: argparse.Namespace) -> None:
    from v4d.datasets import open_source

    print(open_source(config.load(args.config).dataset).download(args.split, args.part))
