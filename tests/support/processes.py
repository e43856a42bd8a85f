"""Child processes that need no new interpreter."""

import multiprocessing
import os
import pickle
import tempfile
import time
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from v4d.distributed.group import DistributedContext


def start(function: Callable, *args: object) -> BaseProcess:
    """Call a function in a child process, which has this one's modules already.

    A process that has used a GPU cannot be forked, nor one in which autograd has threads of its own, as after
    backward passes inside of one another: there the child imports them anew.
    """
    forks = not torch.cuda.is_available() and _autograd_survives_a_fork()
    context = multiprocessing.get_context("fork" if forks else "spawn")
    child = context.Process(target=_call, args=(function, args))
    child.start()
    return child


def _autograd_survives_a_fork() -> bool:
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        try:
            torch.ones(1, requires_grad=True).sum().backward()
        except RuntimeError:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _call(function: Callable, args: tuple) -> None:
    torch.set_num_threads(1)
    # The parent may have a fork server for its loader's workers: that one is no child of ours.
    forkserver._forkserver.__init__()
    function(*args)


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until a condition holds; fail where it does not within a time that no machine needs."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def in_ranks(count: int, function: Callable, *args: object) -> list[Any]:
    """Call `function(ranks, *args)` in the processes of one group; the results, by rank."""
    with tempfile.TemporaryDirectory() as folder:
        children = [start(_rank, rank, count, folder, function, args) for rank in range(count)]
        for child in children:
            child.join(120)
            child.kill()
        assert [child.exitcode for child in children] == [0] * count
        return [pickle.loads((Path(folder) / f"{rank}.pickle").read_bytes()) for rank in range(count)]


def _rank(rank: int, size: int, folder: str, function: Callable, args: tuple) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=size)
    result = function(DistributedContext(rank, size, torch.device("cpu")), *args)
    (Path(folder) / f"{rank}.pickle").write_bytes(pickle.dumps(result))
    dist.destroy_process_group()
