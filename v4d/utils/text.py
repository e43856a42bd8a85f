"""Words of messages that several rooms print."""

from collections.abc import Iterable

from v4d.utils.addresses import without_secrets


def some_of(names: Iterable[object], most: int = 3, sep: str = ", ") -> str:
    """The first names of many, for a message: `a, b, c and 12 more`."""
    listed = [str(name) for name in names]
    rest = f" and {len(listed) - most} more" if len(listed) > most else ""
    return sep.join(listed[:most]) + rest


def one_line(error: object) -> str:
    """What an error says, in one line and without passwords."""
    return without_secrets(" ".join(str(error).split()))
