"""A loader's worker processes: where they are forked, when they end, and the memory that they share.

They do not hear the signals that ask a job to stop, and end with the process that they work for. What they
leave to others has no name, so that nothing is left of it after a kill -9.
"""

import multiprocessing.context
import os
import signal
import sys
from collections.abc import Sequence
from multiprocessing import forkserver, popen_forkserver
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch.multiprocessing.reductions import reduce_storage

from v4d.utils.lifeline import end_with, end_with_fork_server, lifeline
from v4d.utils.processes import signals_held_back

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class _Popen(popen_forkserver.Popen):
    def terminate(self) -> None:
        self.kill()  # SIGTERM is held back from workers, see `fork_server`


class _Worker(multiprocessing.context.ForkServerProcess):
    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._served = lifeline()

    @staticmethod
    def _Popen(process: BaseProcess) -> _Popen:
        with signals_held_back(*_STOP_SIGNALS):  # a fork server that has died is replaced here
            return _Popen(process)

    def run(self) -> None:
        end_with(self._served)
        end_with_fork_server()  # without it, the process that is served takes this one for dead
        Queue._on_queue_feeder_error = staticmethod(_end_unsent)  # type: ignore[attr-defined]
        ForkingPickler.register(torch.UntypedStorage, _reduce)
        super().run()


def _end_unsent(error: Exception, batch: Any) -> None:
    """A batch that cannot be sent would be waited for in vain: multiprocessing prints this and goes on."""
    print(f"a loader worker ends, since it cannot send a batch: {error}", file=sys.stderr, flush=True)
    os._exit(1)


class _Context(multiprocessing.context.ForkServerContext):
    Process = _Worker


def fork_server(preload: str) -> _Context:
    """Where workers are forked: a process that has imported the module `preload`.

    Slurm sends the signals that ask a job to stop to each of its processes. Workers and their server must not
    hear them: the training needs its next batches to get to the step after which it saves its state.
    """
    context = _Context()
    modules = [preload]
    # A child imports the program's main module: what that imports is better there already, once for all.
    main = getattr(sys.modules["__main__"], "__spec__", None)
    if main is not None and main.name.startswith("v4d."):
        modules.append(main.name)
    context.set_forkserver_preload(modules)
    with signals_held_back(*_STOP_SIGNALS):
        forkserver.ensure_running()
    return context


def shared_bytes(shape: Sequence[int]) -> torch.Tensor:
    """An uninitialised uint8 tensor in shared memory: sent to another process, it is not copied."""
    size = torch.Size(shape)
    return torch.empty(0, dtype=torch.uint8).set_(_nameless(size.numel())).view(size)


def _nameless(size: int) -> torch.UntypedStorage:
    """Shared memory for `size` bytes, at least one.

    torch's own is a file in /dev/shm for a moment, where a kill leaves it; and a container's /dev/shm may
    be small.
    """
    descriptor = os.memfd_create("v4d-batch", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, size)
        new: Any = torch.UntypedStorage  # its stubs lack the method
        return new._new_shared_fd_cpu(descriptor, size)
    finally:
        os.close(descriptor)


def _reduce(storage: torch.UntypedStorage) -> tuple:
    """How a worker sends a tensor's memory: torch's way, once it is in nameless memory."""
    if storage.nbytes() and not storage.is_shared():
        storage = _nameless(storage.nbytes()).copy_(storage)
    return reduce_storage(storage)
