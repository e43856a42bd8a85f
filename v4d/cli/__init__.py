"""The command line: `v4d COMMAND ...`. Beside `main` and `command`, each module is a group of commands."""

from v4d.cli.main import COMMANDS, main

__all__ = ["COMMANDS", "main"]
