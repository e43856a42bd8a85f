"""Test a model: Algorithm 1 over units and crops, in every temporal order of the config.

Writes results/<name>/<model>/test/: predictions.parquet, metrics.json, tables and plots. A test that
was killed goes on where it was.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="config file")
    parser.add_argument("--model", required=True, help="name of the model in the config")
    count = parser.add_mutually_exclusive_group()
    count.add_argument("--nproc", type=int, metavar="N", help="processes: one a GPU, or any number on a CPU")
    count.add_argument("--gpus", type=int, metavar="N", help="GPUs that were granted; ignored on a CPU")


def run(args: argparse.Namespace) -> int:
    from v4d.evaluation.stage import start

    return start(args.config, args.model, nproc=args.nproc, gpus=args.gpus)
