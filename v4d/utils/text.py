"""Words of messages that several rooms print."""

from collections.abc import Iterable


def some_of(names: Iterable[object], most: int = 3, sep: str = ", ") -> str:
    """The first names of many, for a message: `a, b, c and 12 more`."""
    listed = [str(name) for name in names]
    rest = f" and {len(listed) - most} more" if len(listed) > most else ""
    return sep.join(listed[:most]) + rest
