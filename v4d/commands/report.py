"""Write results/<name>/report.html: everything about a config in one file, and its plots beside it."""

import argparse

from v4d import config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="config file")


def run(args: argparse.Namespace) -> None:
    from v4d.report.page import log_report, write_report

    settings = config.load(args.config)
    print(write_report(settings))
    log_report(settings)
