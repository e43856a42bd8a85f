"""The command line: `v4d COMMAND ...`. Beside `main` and `command`, each module is a group of commands."""

import sys

try:
    from v4d.cli.main import COMMANDS, main
except KeyboardInterrupt:  # Ctrl-C, before the command can take care of it
    print("v4d: interrupted", file=sys.stderr)
    sys.exit(130)

__all__ = ["COMMANDS", "main"]
