"""The processes of a job as one group: ranks and collectives (gloo on a CPU, nccl on GPUs)."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

import torch
import torch.distributed as dist

from v4d.distributed import gpu_lease

TIMEOUT = timedelta(minutes=10)
"""How long a collective may wait for a slow rank; a dead one is noticed at once by the launcher."""


@dataclass(frozen=True)
class DistributedContext:
    """This process among its peers."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0


@contextmanager
def process_group() -> Iterator[DistributedContext]:
    """Join the processes that `launch` started, or be alone where nothing did.

    Who fails leaves without a word: taking leave of NCCL waits for the other ranks, which wait in a
    collective for this one, and neither its traceback nor its exit code would come out.
    """
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if torch.cuda.is_available():
        leased = _hold_lease()
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        backend = "nccl"
    else:
        leased, device, backend = None, torch.device("cpu"), "gloo"
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "0")) or os.cpu_count() or 1)
    if "MASTER_ADDR" in os.environ:
        dist.init_process_group(backend, timeout=TIMEOUT, device_id=device if backend == "nccl" else None)
    yield DistributedContext(rank, size, device)
    if dist.is_initialized():
        dist.destroy_process_group()
    if leased is not None:
        leased.close()


def _hold_lease() -> Any:
    """Keep this process's GPU leased as long as it lives, also when its launcher is gone."""
    leases = os.environ.get(gpu_lease.LEASES)
    if not leases:
        return None
    mine = Path(leases.split(os.pathsep)[int(os.environ["LOCAL_RANK"])])
    return gpu_lease.hold(mine, os.environ[gpu_lease.HOLDER])


def gather_objects(ranks: DistributedContext, value: Any) -> list[Any] | None:
    """Every rank's value, in the order of ranks, on rank 0; None elsewhere."""
    if ranks.size == 1:
        return [value]
    gathered: list[Any] | None = [None] * ranks.size if ranks.is_main else None
    dist.gather_object(value, gathered, dst=0)
    return gathered


def sum_over_ranks(ranks: DistributedContext, values: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all ranks, on every rank."""
    if ranks.size > 1:
        dist.all_reduce(values)
    return values


def broadcast_object(ranks: DistributedContext, value: Any) -> Any:
    """Rank 0's value, on every rank."""
    if ranks.size == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def any_rank(ranks: DistributedContext, value: bool) -> bool:
    """Whether it is true on one rank at least: the same answer on every rank."""
    return bool(sum_over_ranks(ranks, torch.tensor(float(value), device=ranks.device)).item())


def barrier(ranks: DistributedContext) -> None:
    if ranks.size > 1:
        dist.barrier()


def wait_for_main() -> None:
    """Most mistakes meet all ranks alike, and rank 0 says them: the launcher then ends this process here."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(5)


class PipeSafeStream:
    """A stream whose reader may be gone, e.g. a `tee` that has heard the signal to stop too.

    What is said then is lost. The state, which is saved after it is said, is not.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(BrokenPipeError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
