"""A network that is not there: what a program asks of it beyond loopback is refused, and noted.

In a folder on PYTHONPATH as `sitecustomize.py`, it is imported by every Python that starts. Each notes itself
in `programs.log` beside it, and each attempt in `attempts.log`.
"""

import ipaddress
import os
import socket
import sys
from pathlib import Path


def install(folder: Path) -> None:
    """Cut off every Python that starts with `folder` on PYTHONPATH."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(
        f"{Path(__file__).read_text()}\n\n_cut_off(Path(__file__).parent)\n"
    )
    for name in ("programs.log", "attempts.log"):
        (folder / name).touch()


UNDER_TEST = ("PYTEST_CURRENT_TEST", "CI", "GITHUB_ACTIONS", "GITLAB_CI", "JENKINS_URL")
"""Where these are set, a program may keep to itself what it tells otherwise."""


def programs(folder: Path) -> list[str]:
    """The command lines of all who were cut off."""
    return (folder / "programs.log").read_text().splitlines()


def attempts(folder: Path) -> list[str]:
    """What was asked of the network: the function, the address, and by whom."""
    return (folder / "attempts.log").read_text().splitlines()


def _cut_off(folder: Path) -> None:
    command = " ".join(sys.orig_argv[1:]).replace("\n", " ")[:200]
    _note(folder / "programs.log", command)

    def refusing(name: str, function, place: int):
        def checked(*args, **kwargs):
            address = args[place] if len(args) > place else None
            if not _is_here(address):
                _note(folder / "attempts.log", f"{name} {address!r} by {command}")
                raise OSError(101, "Network is unreachable")
            return function(*args, **kwargs)

        return checked

    for name, place in (("connect", 1), ("connect_ex", 1), ("sendto", -1), ("sendmsg", 4)):
        setattr(socket.socket, name, refusing(name, getattr(socket.socket, name), place))
    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
        setattr(socket, name, refusing(name, getattr(socket, name), 0))


def _is_here(address: object) -> bool:
    """Whether an address, or the host in it, is of this machine: loopback, its own name, a Unix socket."""
    host = address[0] if isinstance(address, tuple) else address
    if isinstance(address, str | bytes) and os.fsdecode(address).startswith((os.sep, "\0")):
        return True  # a Unix socket
    if host in (None, "", b"", "localhost", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(os.fsdecode(host)).is_loopback
    except (ValueError, TypeError):
        return False


def _note(file: Path, line: str) -> None:
    with file.open("a") as log:
        log.write(f"{line}\n")  # in one call: whole lines, whoever else writes
