"""The one exception that stands for a user's mistake."""


class V4DError(Exception):
    """Something outside the program is wrong: a config value, a file, a machine.

    The message is one line that names the key, file or value. The command line
    prints it and exits with 1; anything else that escapes is a bug and shows its traceback.
    """
