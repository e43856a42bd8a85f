"""The exceptions that stand for a user's mistake, or for something wrong with the machine."""


class V4DError(Exception):
    """Something outside the program is wrong: a config value, a file, a machine.

    The message is one line that names the key, file or value. The command line
    prints it and exits with 1; anything else that escapes is a bug and shows its traceback.
    """


class WorkerDied(V4DError):
    """A process that loads for one rank has died; the other ranks do not meet this error."""
