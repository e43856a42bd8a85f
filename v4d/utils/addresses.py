"""Addresses with a password, which stands in nothing that is written or printed.

A config may say `https://user:password@host`. From when it is read, every part of the program says
`https://host`. The whole address is kept in an environment variable, for this process and those that it
starts, and taken where a connection is made: `whole`.
"""

import json
import os
import re
import urllib.parse
from typing import Any

KEPT = "V4D_ADDRESSES"
# Behind http(s) a slash ends what may be user and password; in a database's address it does not.
_SECRET = re.compile(
    r"(?<=://)(?:[^/\s]+|(?<!http://)(?<!https://)[^:/@\s]*:[^@\s]*)@"
    r"|(?<=[?&])(?:password|passwd|token|access_token)=[^&#\s]*&?"
)


def without_secrets(text: str) -> str:
    """A text in which addresses have no user, no password and no token."""
    return _SECRET.sub("", text)


def keep_secrets(values: Any) -> Any:
    """The same values, deeply, without secrets in addresses; `whole` gives those back."""
    if isinstance(values, dict):
        return {name: keep_secrets(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return type(values)(map(keep_secrets, values))
    if isinstance(values, str) and (clean := without_secrets(values)) != values:
        os.environ[KEPT] = json.dumps(_kept() | {clean: values})
        return clean
    return values


def whole(address: str) -> str:
    """An address, or one below it, as the user gave it."""
    for clean, given in _kept().items():
        base = clean.rstrip("/")
        if address == clean or address.startswith(f"{base}/"):
            return given.rstrip("/") + address[len(base) :] if address != clean else given
    return address


def user_and_password(address: str) -> tuple[str, str]:
    """What a user gave for an address; "" where nothing was given."""
    parts = urllib.parse.urlsplit(whole(address))
    return urllib.parse.unquote(parts.username or ""), urllib.parse.unquote(parts.password or "")


def _kept() -> dict[str, str]:
    kept: dict[str, str] = json.loads(os.environ.get(KEPT, "{}"))
    return kept
