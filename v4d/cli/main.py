"""`v4d COMMAND ...`: find the command, parse its arguments, run it, print a user's mistake as one line."""

import argparse
import contextlib
import importlib
import os
import signal
import sys
from typing import Any

from v4d import __version__
from v4d.errors import V4DError
from v4d.utils.text import one_line

INTERRUPTED = 130
"""Exit code after Ctrl-C."""
COMMANDS = {
    "annotations": ("write the tables of what should exist: classes, and a row a video", "data"),
    "download": ("bring one archive of videos (made on the spot for the synthetic set)", "data"),
    "clips": ("transcode the videos of one part into a WebDataset tar and its ledger", "data"),
    "frames": ("decode the clips of one part into an LMDB shard of JPEG frames", "data"),
    "manifest": ("account for every video; counts, losses by reason, the data set's fingerprint", "data"),
    "verify": ("check archives, shards and the manifest against each other", "data"),
    "tracking-init": ("create the tracking database and experiment, and log the data set", "system"),
    "tracking-sync": ("replay metrics that could not be sent to the tracking server", "system"),
    "train": ("train one stage of a model; continues from its last checkpoint", "train"),
    "test": ("test a model: Algorithm 1, crops, temporal orders", "train"),
    "compare": ("put all models of a config into one table", "reports"),
    "report": ("write the self-contained HTML report", "reports"),
    "predict": ("classify single videos", "predict"),
    "explain": ("show where and when a model looks", "predict"),
    "import-released": ("convert the authors' released weights", "models"),
    "export": ("export a checkpoint for deployment", "models"),
    "describe": ("show an architecture: stages, shapes, parameters, GMACs", "models"),
    "estimate": ("disk, download and hours for a config, before anything runs", "data"),
    "doctor": ("check this machine", "system"),
}
"""Name: what the command does, and the module of this package that holds it as `name`, `-` written as `_`.

The module is imported for the chosen command only.
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code.

    A V4DError is printed as one line on stderr, with exit code 1. Ctrl-C gives one line and 130, a wrong
    argument 2.
    """
    is_program = argv is None
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] not in COMMANDS:
        parser = _top_parser()
        parser.parse_args(argv)  # handles --help and --version, and refuses an unknown command
        parser.print_usage(sys.stderr)
        return 2
    name = argv[0]
    interruption = _Interruption(name)
    try:
        if is_program:
            interruption.watch()
        code = _run(name, argv[1:], is_program)
    except V4DError as error:
        if interruption.came:  # it stands in the way of what was under way
            return interruption.said()
        print(f"v4d {name}: error: {one_line(error)}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        _drop_output()
        code = 1
    except BaseException as error:
        if not interruption.came and not isinstance(error, KeyboardInterrupt):
            raise
        return interruption.said()
    return interruption.said() if code == INTERRUPTED or interruption.came else code


def _run(name: str, argv: list[str], is_program: bool) -> int:
    module = importlib.import_module(f"v4d.cli.{COMMANDS[name][1]}")
    command = getattr(module, name.replace("-", "_"))
    args = command.parser(f"v4d {name}").parse_args(argv)
    if is_program:
        from v4d.utils.lifeline import keep_temporary_files_together

        keep_temporary_files_together()
    return command.run(args) or 0


class _Interruption:
    """Ctrl-C on the terminal: whatever it interrupts, an import or a callback of a library, one line."""

    def __init__(self, name: str):
        self.name, self.came = name, False

    def watch(self) -> None:
        """Note Ctrl-C, which a library may swallow or turn into an error of its own."""
        signal.signal(signal.SIGINT, self._note)
        usual = sys.unraisablehook

        def end(unraisable: "sys.UnraisableHookArgs") -> None:
            if not isinstance(unraisable.exc_value, KeyboardInterrupt):
                usual(unraisable)
                return
            os._exit(self.said())  # in a destructor, say: nobody else would end the command

        sys.unraisablehook = end

    def said(self) -> int:
        """Say it; the exit code."""
        with contextlib.suppress(OSError, ValueError):
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # once more, and it is over at once
            print(f"v4d {self.name}: interrupted", file=sys.stderr, flush=True)
        try:
            sys.stdout.flush()
        except OSError:  # a `tee` behind this process was interrupted as well
            _drop_output()
        return INTERRUPTED

    def _note(self, number: int, frame: Any) -> None:
        self.came = True
        raise KeyboardInterrupt


def _drop_output() -> None:
    """Python flushes stdout at exit, which would fail once more and print a traceback."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _top_parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    table = "\n".join(f"  {name:<{width}}  {what}" for name, (what, _) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="v4d",
        description="Video-level 4D networks, from videos to a tested model.",
        epilog=f"commands:\n{table}\n\n`v4d COMMAND --help` says more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"v4d {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of the commands below")
    return parser
