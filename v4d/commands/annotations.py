"""Write the tables of what should exist: data/<dataset>/annotations/{classes.json, <split>.parquet}."""

import argparse

from v4d import config
from v4d.datasets.annotations import write_annotations


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="config file")
    parser.add_argument("--only", nargs="+", help="splits, or `classes`: write no other tables than these")


def run(args: argparse.Namespace) -> None:
    dataset = config.load(args.config).dataset
    for split, count in write_annotations(dataset, args.only).items():
        print(f"{split}: {count} videos annotated")
