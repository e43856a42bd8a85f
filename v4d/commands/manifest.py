"""Account for every video: data/<dataset>/{manifest.parquet, dataset.json, missing.csv, quarantine.csv}."""

import argparse

import pandas

from v4d import config
from v4d.data.kinetics import published_counts
from v4d.data.manifest import write_manifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="config file")


def run(args: argparse.Namespace) -> None:
    settings = config.load(args.config)
    info = write_manifest(settings)
    counts = pandas.DataFrame(info["counts"]).T.fillna(0).astype(int)
    print(f"data set {info['name']}, fingerprint {info['fingerprint'][:16]}, {info['classes']} classes")
    print(counts.to_string())
    published = published_counts(settings.dataset) if settings.dataset.source == "kinetics" else None
    if published is not None:
        print(f"\npublished (paper, and the public archives):\n{published.to_string()}")
