"""The processes of a job as one group: ranks and collectives (gloo on a CPU, nccl on GPUs)."""

import contextlib
import json
import os
import signal
import sys
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
from v4d.distributed.job import LIFELINE, STORE
from v4d.errors import V4DError, WorkerDied
from v4d.utils.lifeline import end_with
from v4d.utils.text import one_line

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
        """Whether this is rank 0, which writes files and prints."""
        return self.rank == 0


@contextmanager
def process_group() -> Iterator[DistributedContext]:
    """Join the processes that `launch` started, or be alone where nothing did.

    Where the launcher is killed (kill -9), this process is killed with it, without saving anything.

    A failing rank does not call destroy_process_group: it would block on ranks that wait in a collective, and
    its traceback and exit code would be lost.
    """
    if LIFELINE in os.environ:
        end_with(os.environ[LIFELINE])
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if torch.cuda.is_available():
        leased = _hold_lease()
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        backend, bound = "nccl", device
    else:
        leased, device, backend, bound = None, torch.device("cpu"), "gloo", None
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "0")) or os.cpu_count() or 1)
    if STORE in os.environ or "MASTER_ADDR" in os.environ:
        store = dist.FileStore(os.environ[STORE]) if STORE in os.environ else None  # None: torchrun's
        dist.init_process_group(
            backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT, device_id=bound
        )
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


def gather_objects(ranks: DistributedContext, value: Any) -> list[Any]:
    """Every rank's value, in the order of ranks, on every rank.

    Values are what JSON can hold, and tuples come as lists: nothing that came over a socket is unpickled.
    """
    if ranks.size == 1:
        return [value]
    mine = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(ranks.device)
    sizes = [torch.empty(1, dtype=torch.int64, device=ranks.device) for _ in range(ranks.size)]
    dist.all_gather(sizes, torch.tensor([len(mine)], device=ranks.device))
    padded = torch.zeros(max(map(int, sizes)), dtype=torch.uint8, device=ranks.device)
    padded[: len(mine)] = mine
    gathered = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(gathered, padded)
    values = zip(gathered, sizes, strict=True)
    return [json.loads(data[: int(size)].cpu().numpy().tobytes()) for data, size in values]


def sum_over_ranks(ranks: DistributedContext, values: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all ranks, on every rank."""
    if ranks.size > 1:
        dist.all_reduce(values)
    return values


def broadcast_object(ranks: DistributedContext, value: Any) -> Any:
    """Rank 0's value, on every rank: what JSON can hold, as in `gather_objects`."""
    return gather_objects(ranks, value if ranks.is_main else None)[0]


def any_rank(ranks: DistributedContext, value: bool) -> bool:
    """Whether it is true on one rank at least: the same answer on every rank."""
    return bool(sum_over_ranks(ranks, torch.tensor(float(value), device=ranks.device)).item())


def barrier(ranks: DistributedContext) -> None:
    """Wait until every rank has come here."""
    if ranks.size > 1:
        dist.barrier()


def exit_code_of(error: V4DError, command: str) -> int:
    """Let rank 0 print an error that all ranks meet; the launcher ends the others while they wait here."""
    if not isinstance(error, WorkerDied) and os.environ.get("RANK", "0") != "0":
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(30)  # rank 0 may need seconds to end on a busy machine
    print(f"{command}: error: {one_line(error)}", file=sys.stderr, flush=True)
    return 1


class PipeSafeStream:
    """A stream that ignores BrokenPipeError.

    A `tee` behind this process may get the same stop signal and end first; a failed print must not prevent
    the checkpoint.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text, or drop it where the reader is gone."""
        with contextlib.suppress(BrokenPipeError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, where the reader is still there."""
        with contextlib.suppress(BrokenPipeError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
