"""Who could talk to a job of one machine: nobody from outside, and nothing that is sent is unpickled."""

import ipaddress
import socket
import sys
import time
from contextlib import suppress

import psutil
import pytest

from tests.support.processes import in_ranks
from tests.support.project import TINY, train_command, write_config
from tests.support.watched import Watched, watched
from v4d import config as configs
from v4d.distributed.group import DistributedContext, broadcast_object, gather_objects


def listening(processes: list[psutil.Process]) -> set[str]:
    """Addresses at which the processes wait for connections (TCP) or messages (UDP)."""
    found = set()
    for process in processes:
        with suppress(psutil.Error):
            for connection in process.net_connections("inet"):
                if connection.status == psutil.CONN_LISTEN or connection.type == socket.SOCK_DGRAM:
                    found.add(connection.laddr.ip)
    return found


def listened_at(command: Watched) -> set[str]:
    """Addresses at which a command's processes listened at any moment until it ended well."""
    found: set[str] = set()
    while command.process.poll() is None:
        found |= listening(command.living())
        time.sleep(0.1)
    assert command.process.returncode == 0, command.said.read_text()
    return found


def test_the_measurement_sees_a_socket_that_listens_to_everybody():
    with socket.create_server(("", 0)):
        assert "0.0.0.0" in listening([psutil.Process()])


@pytest.mark.slow
def test_training_and_test_listen_on_loopback_at_most(tiny):
    write_config(
        tiny, configs.merge(TINY, {"training": {"epochs": 1, "workers": 1}, "testing": {"workers": 1}})
    )
    test = ["test", "--config", "config.yaml", "--model", "v4d", "--nproc", "2"]
    for words in (train_command(2), [sys.executable, "-m", "v4d.cli", *test]):
        with watched(words, tiny) as command:
            addresses = listened_at(command)
        assert addresses  # gloo's
        assert all(ipaddress.ip_address(address).is_loopback for address in addresses), addresses


VALUES = ["", None, "ünï", [["v1", 0.1, True, False]], {"val/loss": float("inf"), "n": 2**60}]


def exchange(ranks: DistributedContext) -> tuple[list, list]:
    gathered = [gather_objects(ranks, [ranks.rank, value] if ranks.rank else value) for value in VALUES]
    sent = [broadcast_object(ranks, value if ranks.is_main else "not this") for value in VALUES]
    return gathered, sent


def test_values_of_any_size_go_between_ranks():
    main, other = in_ranks(2, exchange)
    assert main[0] == other[0] == [[value, [1, value]] for value in VALUES]
    assert main[1] == other[1] == VALUES
