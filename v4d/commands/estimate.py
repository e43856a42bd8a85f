"""What a config will cost before anything runs: download, disk and CPU hours, by stage."""

import argparse
import os
import shutil
from pathlib import Path

from v4d import config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", required=True, nargs="+", help="config files, each laid over the one before"
    )
    parser.add_argument(
        "--cores", type=int, default=os.cpu_count(), help="cores to count with (default: all)"
    )


def run(args: argparse.Namespace) -> None:
    from v4d.preprocessing.estimate import estimate, summary

    settings = config.load(*args.config)
    table = estimate(settings)
    print(table.to_string(float_format=lambda number: f"{number:,.3g}"))
    free = shutil.disk_usage(_existing(settings.dataset.root)).free
    for line in summary(table, cores=max(1, args.cores), free=free):
        print(line)


def _existing(path: Path) -> Path:
    """The nearest folder above that is there."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
