"""Account for every video: data/<dataset>/{manifest.parquet, dataset.json, missing.csv, quarantine.csv}."""

import argparse

from v4d import config
from v4d.preprocessing.manifest import counts_table, write_manifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="config file")


def run(args: argparse.Namespace) -> None:
    settings = config.load(args.config)
    info = write_manifest(settings)
    table = counts_table(settings)
    print(f"data set {info['name']}, fingerprint {info['fingerprint'][:16]}, {info['classes']} classes")
    print(table.astype(object).where(table.notna(), "-").to_string())
    if any(name.endswith(" published") for name in table.index):
        print("published: the released CSVs, the public archives; under ok the V4D authors' own copy")
