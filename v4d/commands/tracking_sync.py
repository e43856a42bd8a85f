"""Send what a tracking server missed while it did not answer."""

import argparse

from v4d import config
from v4d.tracking import sync


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="config file")


def run(args: argparse.Namespace) -> None:
    sent = sync(config.load(args.config))
    print(f"sent: {', '.join(sent)}" if sent else "nothing was waiting")
