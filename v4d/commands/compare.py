"""Put models side by side: all of a config (results/<name>/comparison.{csv,md}), or any MLflow runs.

Published results stand beside ours only for the same data set. Models tested on the same videos are
compared by McNemar's test.
"""

import argparse
from pathlib import Path

from v4d import config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", help="config file: compare all its models")
    what.add_argument("--runs", nargs="+", metavar="RUN", help="MLflow run ids")
    what.add_argument("--experiment", help="MLflow experiment: compare all its tested runs")
    parser.add_argument(
        "--uri", default="sqlite:///mlflow.db", help="MLflow's address (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, help="folder for the tables of MLflow runs (default: print only)")


def run(args: argparse.Namespace) -> None:
    from v4d.report import comparison

    if args.config:
        settings = config.load(args.config)
        table = comparison.compare(settings)
        comparison.write(table, settings.results)
        print(comparison.markdown(table))
        return
    from v4d.report import mlflow_runs as runs

    groups = runs.compare_runs(args.uri, run_ids=args.runs, experiment=args.experiment)
    if args.out:
        runs.write(groups, args.out)
    print(runs.text(groups))
