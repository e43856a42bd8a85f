"""The command line: `v4d STAGE ...`, one subcommand a stage, usable without Snakemake."""

import argparse
import importlib
import os
import sys

from v4d import __version__
from v4d.errors import V4DError
from v4d.utils.lifeline import keep_temporary_files_together

# name: what it does. The code of `a-b` is v4d/commands/a_b.py with `add_arguments(parser)` and
# `run(args)`; it is imported for the chosen command only, since torch alone takes a second.
COMMANDS = {
    "annotations": "write the tables of what should exist: classes, and a row a video",
    "download": "bring one archive of videos (made on the spot for the synthetic set)",
    "clips": "transcode the videos of one part into a WebDataset tar and its ledger",
    "frames": "decode the clips of one part into an LMDB shard of JPEG frames",
    "manifest": "account for every video; counts, losses by reason, the data set's fingerprint",
    "verify": "check archives, shards and the manifest against each other",
    "tracking-init": "create the tracking database and experiment, and log the data set",
    "tracking-sync": "replay metrics that could not be sent to the tracking server",
    "train": "train one stage of a model; continues from its last checkpoint",
    "test": "test a model: Algorithm 1, crops, temporal orders",
    "compare": "put all models of a config into one table",
    "report": "write the self-contained HTML report",
    "predict": "classify single videos",
    "explain": "show where and when a model looks",
    "import-released": "convert the authors' released weights",
    "export": "export a checkpoint for deployment",
    "describe": "show an architecture: stages, shapes, parameters, GMACs",
    "estimate": "disk, download and hours for a config, before anything runs",
    "doctor": "check this machine",
}


def main(argv: list[str] | None = None) -> int:
    """Parse, run, and turn a user's mistake into one line on stderr and exit code 1."""
    is_program = argv is None
    argv = sys.argv[1:] if argv is None else argv
    parser = _top_parser()
    if not argv or argv[0] not in COMMANDS:
        parser.parse_args(argv)  # --help, --version, or a message that names the choices
        parser.print_usage(sys.stderr)
        return 2
    name = argv[0]
    module = importlib.import_module(f"v4d.commands.{name.replace('-', '_')}")
    command = argparse.ArgumentParser(
        prog=f"v4d {name}",
        description=module.__doc__ or COMMANDS[name],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(command)
    args = command.parse_args(argv[1:])
    if is_program:
        keep_temporary_files_together()
    try:
        return module.run(args) or 0
    except V4DError as error:
        print(f"v4d {name}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _top_parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    table = "\n".join(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="v4d",
        description="Video-level 4D networks, from videos to a tested model.",
        epilog=f"commands:\n{table}\n\n`v4d COMMAND --help` says more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"v4d {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of the commands below")
    return parser


if __name__ == "__main__":
    sys.exit(main())
