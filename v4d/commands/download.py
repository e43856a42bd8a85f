"""Bring one archive of videos: data/<dataset>/archives/<split>/<part>.tar.gz."""

import argparse

from v4d import config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="config file")
    parser.add_argument("--split", required=True, help="split, e.g. train")
    parser.add_argument("--part", required=True, help="part, e.g. part_0; youtube, replacements")


def run(args: argparse.Namespace) -> None:
    from v4d.datasets.kinetics_archives import download_archive

    print(download_archive(config.load(args.config).dataset, args.split, args.part))
