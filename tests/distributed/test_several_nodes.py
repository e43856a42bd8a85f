"""Two nodes (on loopback) in one training: what comes of it, and how it ends."""

import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from torch.distributed.elastic.rendezvous import RendezvousError

from tests.support.processes import wait_for
from tests.support.project import TINY, train_command, v4d, write_config
from tests.support.watched import Watched, watched
from v4d import config as configs
from v4d.distributed import several_nodes
from v4d.distributed.job import PREEMPTED, Ended
from v4d.distributed.rendezvous import Rendezvous
from v4d.errors import V4DError
from v4d.models.checkpoint import load_model


def start_nodes(stack: ExitStack, project: Path) -> list[Watched]:
    """Two launchers of a rank each; the ranks of two hosts meet over a network, here the loopback device."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"localhost:{probe.getsockname()[1]}"
    variables = {"V4D_NNODES": "2", "V4D_RENDEZVOUS": endpoint, "GLOO_SOCKET_IFNAME": "lo"}
    return [stack.enter_context(watched(train_command(1), project, **variables)) for _ in range(2)]


@pytest.mark.slow
def test_two_nodes_train_as_two_processes_do(tiny):
    write_config(tiny, configs.merge(TINY, {"training": {"epochs": 1}}))
    v4d("train", "--config", "config.yaml", "--model", "v4d", "--nproc", 2, cwd=tiny)
    expected = load_model(tiny / "results/tiny/v4d/main/final.pt").model.state_dict()
    (tiny / "results").rename(tiny / "alone")
    with ExitStack() as stack:
        nodes = start_nodes(stack, tiny)
        codes = [node.process.wait(120) for node in nodes]
        printed = [node.said.read_text() for node in nodes]
    assert codes == [0, 0], printed
    assert sum("2 processes" in text for text in printed) == 1  # rank 0 speaks
    found = load_model(tiny / "results/tiny/v4d/main/final.pt").model.state_dict()
    assert all(torch.allclose(found[name], value, atol=1e-6) for name, value in expected.items())


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_a_node_that_is_stopped_or_killed_leaves_nothing(tiny, killed):
    """A signal to stop goes to every node, as Slurm sends it; one kill -9 ends the other node as well."""
    changes = {"epochs": 400, "log_steps": 1, "checkpoint_minutes": 1e-9, "workers": 1}
    write_config(tiny, configs.merge(TINY, {"training": changes}))
    with ExitStack() as stack:
        nodes = start_nodes(stack, tiny)
        nodes[0].wait_for((tiny / "results/tiny/v4d/main/checkpoints/last.pt").exists)
        for node in nodes[:1] if killed else nodes:
            node.process.kill() if killed else node.process.terminate()
        for node in nodes:
            node.assert_nothing_is_left()
        codes = [node.process.returncode for node in nodes]
    assert codes == ([-9, 1] if killed else [PREEMPTED, PREEMPTED])


@pytest.mark.parametrize("told", [False, True])
def test_the_node_where_all_meet_may_stop_first(monkeypatch, told):
    """Told to stop as well, this node says what that one says; else the nodes have lost one another."""

    def lost(config, entrypoint):
        def run(*command):
            if told:
                handlers[signal.SIGTERM](signal.SIGTERM, None)
            raise RendezvousError("The connection to the C10d store has failed. See inner exception.")

        return run

    handlers: dict = {}
    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", lost)
    monkeypatch.setattr(several_nodes.signal, "signal", handlers.__setitem__)
    monkeypatch.setattr(several_nodes.os, "kill", lambda *given: None)
    command = ["-c", "import time; time.sleep(60)"]
    rank = subprocess.Popen([sys.executable, *command])
    try:
        wait_for(lambda: Path(f"/proc/{rank.pid}/cmdline").read_bytes().count(b"\0") == 3)
        place = Rendezvous(2, "localhost:1", "x")
        if told:
            assert several_nodes.run(command, 1, place) == Ended(0, PREEMPTED, frozenset([signal.SIGTERM]))
        else:
            with pytest.raises(
                V4DError, match="2 nodes at localhost:1 did not stay together: The connection"
            ):
                several_nodes.run(command, 1, place)
    finally:
        monkeypatch.undo()
        rank.kill()
        rank.wait()
