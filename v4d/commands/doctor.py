"""Check this machine: one line each, ok, warn or fail, with what to do."""

import argparse

from v4d import config
from v4d.errors import V4DError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", nargs="+", help="config files: check disk and tracking for these")


def run(args: argparse.Namespace) -> None:
    from v4d.doctor import FAIL, examine

    failures = []
    for finding in examine(config.load(*args.config) if args.config else None):
        print(finding, flush=True)
        if finding.state == FAIL:
            failures.append(finding)
    if failures:
        raise V4DError(f"{len(failures)} of these must be put right, first {failures[0].what}")
