"""What a command is: a function and its arguments. Also the arguments that several commands share.

    @command(CONFIG, argument("--threads", type=int))
    def clips(args): ...  # its docstring is the help of `v4d clips` and ends with an example

The functions import the stages when they run, so that `v4d COMMAND --help` needs no torch and `v4d doctor`
works where packages are missing.
"""

import argparse
import inspect
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from v4d.config import Config

Argument = Callable[[Any], object]
"""Adds itself to a parser, or to a group of a parser."""


@dataclass(frozen=True)
class Command:
    """A subcommand: `run` takes the parsed arguments and returns the exit code, or None for 0."""

    run: Callable[[Namespace], int | None]
    arguments: tuple[Argument, ...]

    def parser(self, prog: str) -> argparse.ArgumentParser:
        """The parser of the command's arguments; the docstring of `run` is its description."""
        parser = argparse.ArgumentParser(
            prog=prog,
            description=inspect.getdoc(self.run),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for add in self.arguments:
            add(parser)
        return parser


def command(*arguments: Argument) -> Callable[[Callable[[Namespace], int | None]], Command]:
    """Make a function of the parsed arguments a command."""
    return lambda run: Command(run, arguments)


def argument(*names: str, **options: Any) -> Argument:
    """One argument: takes what `ArgumentParser.add_argument` takes."""
    return lambda parser: parser.add_argument(*names, **options)


def one_of(*arguments: Argument, required: bool = False) -> Argument:
    """Arguments that exclude each other."""

    def add(parser: argparse.ArgumentParser) -> None:
        group = parser.add_mutually_exclusive_group(required=required)
        for add_to in arguments:
            add_to(group)

    return add


def config_argument(text: str = "config file", **options: Any) -> Argument:
    """`--config`, which `load_config` reads: one file, or several with `nargs="+"`."""
    return argument("--config", help=text, **options)


def load_config(args: Namespace) -> "Config":
    """The config that `--config` names; of several files each is laid over the one before.

    Raises:
        V4DError: a file is missing, or what it says is refused.
    """
    from v4d import config

    return config.load(*([args.config] if isinstance(args.config, str) else args.config))


CONFIG = config_argument(required=True)
