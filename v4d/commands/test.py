"""Test a model: Algorithm 1 over units and crops, in every temporal order of the config.

Writes results/<name>/<model>/test/: predictions.parquet, metrics.json, tables and plots. A test that
was killed goes on where it was.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="config file")
    parser.add_argument("--model", required=True, help="name of the model in the config")
    parser.add_argument(
        "--nproc", type=int, help="processes (default: a GPU each, or training.processes on a CPU)"
    )


def run(args: argparse.Namespace) -> int:
    from v4d.evaluation.stage import start

    return start(args.config, args.model, nproc=args.nproc, gpus=args.gpus)
