"""The ranks of one node among several: started by torch's elastic launcher, by which the nodes meet."""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from v4d.distributed.job import ENDING, PASSED_ON, POLL_SECONDS, PREEMPTED, Ended, Interrupted
from v4d.distributed.rendezvous import Rendezvous
from v4d.errors import V4DError


def run(command: Sequence[str], processes: int, place: Rendezvous) -> Ended:
    """As `one_node.run`, with as many ranks on each of the other nodes.

    Raises:
        Interrupted: a signal of ENDING came.
        V4DError: the nodes do not find or have lost one another.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=place.nodes,
        max_nodes=place.nodes,
        nproc_per_node=processes,
        run_id=place.name,
        rdzv_backend="c10d",
        rdzv_endpoint=place.endpoint,
        max_restarts=0,
        monitor_interval=POLL_SECONDS,
        signals_to_handle=",".join(number.name for number in ENDING),
    )
    # It repeats a failure in forty lines; the failing rank has said it in one.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    passed_on: set[int] = set()
    _pass_on_stop_signals(command, passed_on)
    try:
        elastic_launch(config, sys.executable)(*command)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        return Ended(rank, failure.exitcode, frozenset(passed_on))
    except RendezvousError as error:  # also when the node that the others meet at is gone
        if passed_on:  # every node was asked to stop, and that one has ended first; its code says how
            return Ended(0, PREEMPTED, frozenset(passed_on))
        why = str(error).partition(". ")[0]
        raise V4DError(f"{place.nodes} nodes at {place.endpoint} did not stay together: {why}") from error
    except SignalException as error:  # torch has ended the ranks
        raise Interrupted from error
    return Ended()


def _pass_on_stop_signals(command: Sequence[str], passed_on: set[int]) -> None:
    """Pass the signals on to the ranks, which take the time that they need to save; note them.

    torch's launcher would send SIGTERM to the loader's workers as well, without which no process gets to its
    next step, and would kill everything after 30 seconds.
    """

    def pass_on(number: int, frame: Any) -> None:
        passed_on.add(number)
        ranks = 0
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                parent = int((process / "stat").read_bytes().rpartition(b")")[2].split()[1])
                words = os.fsdecode((process / "cmdline").read_bytes()).split("\0")
                if parent == os.getpid() and words[1:-1] == list(command):
                    ranks += 1
                    os.kill(int(process.name), number)
        if ranks == 0:  # it still waits for other nodes
            raise SystemExit(PREEMPTED)

    for number in PASSED_ON:
        signal.signal(number, pass_on)
