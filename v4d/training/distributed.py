"""Processes: started by torchrun's launcher, joined by gloo on a CPU and nccl on GPUs.

One process goes through the same path as many, so that everybody runs the distributed code.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from v4d.errors import V4DError
from v4d.training import gpus
from v4d.training.nodes import meeting

PREEMPTED = 75
"""Exit code of a job that saved its state and wants to be started again (EX_TEMPFAIL)."""

TIMEOUT = timedelta(minutes=10)
"""How long a collective may wait for a slow rank; a dead one is noticed at once by the launcher."""


@dataclass(frozen=True)
class Ranks:
    """This process among its peers."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def processes_for(asked: int | None, granted: int, cpu_processes: int) -> int:
    """How many processes to start: `asked` if given, else one a granted GPU, or `cpu_processes` on a CPU.

    Raises:
        V4DError: more than there are GPUs.
    """
    available = torch.cuda.device_count()
    if available == 0:
        return asked or cpu_processes
    wanted = asked or granted
    if wanted > available:
        raise V4DError(
            f"--nproc {wanted}: this machine has {available} GPU{'s' if available > 1 else ''}; "
            f"lower training.gpus or start Snakemake with --resources gpu={available}"
        )
    return wanted


def launch(module: str, argv: Sequence[str], processes: int) -> int:
    """Run `python -m module argv` in `processes` processes and wait for them.

    On several nodes the same command is started once a node; where they meet: `nodes.meeting`.

    Returns:
        0, or the exit code of the first process that failed. A process that fails takes the others down.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    place = meeting(os.environ, [module, *argv])
    if place.nodes == 1 and not torch.cuda.is_available():
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the host's own name need not resolve
    # Snakemake gives a job's threads in OMP_NUM_THREADS; they are for all of its processes together, and
    # twice as many threads as cores make a step several times as long.
    threads = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
    os.environ["OMP_NUM_THREADS"] = str(max(1, threads // processes))
    config = LaunchConfig(
        min_nodes=place.nodes,
        max_nodes=place.nodes,
        nproc_per_node=processes,
        run_id=place.name,
        rdzv_backend="c10d",
        rdzv_endpoint=place.endpoint,
        max_restarts=0,
        monitor_interval=0.1,
    )
    _quieten_launcher()
    signal.signal(signal.SIGUSR1, _pass_on)  # the launcher itself passes on SIGTERM only
    try:
        with _leased_gpus(processes):
            elastic_launch(config, sys.executable)("-u", "-m", module, *argv)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = failure.exitcode
        if code < 0:
            print(f"{module}: rank {rank} was killed by {signal.Signals(-code).name}", file=sys.stderr)
        return code if 0 < code < 126 else 1
    except Exception as error:
        if type(error).__name__ == "SignalException":  # SIGTERM to the launcher, passed on to the processes
            return PREEMPTED
        raise
    return 0


@contextmanager
def _leased_gpus(processes: int) -> Iterator[None]:
    """Let the processes see GPUs that are theirs alone, one each; nothing on a CPU."""
    if torch.cuda.device_count() == 0 or os.environ.get(gpus.SHARE, "0") != "0":
        yield
        return
    folder = gpus.lease_folder()
    with gpus.lease(gpus.visible_gpus(), processes, folder) as taken:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpu.token for gpu in taken)
        os.environ[gpus.LEASES] = os.pathsep.join(str(gpus.lock_file(gpu, folder)) for gpu in taken)
        yield


def _hold_lease() -> Any:
    """Keep this process's GPU leased as long as it lives, also when its launcher is gone."""
    leases = os.environ.get(gpus.LEASES)
    if not leases:
        return None
    return gpus.hold(Path(leases.split(os.pathsep)[int(os.environ["LOCAL_RANK"])]))


def _pass_on(number: int, frame: Any) -> None:
    """Send a signal to the processes that this one has started."""
    import psutil

    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            child.send_signal(number)


def _quieten_launcher() -> None:
    """The launcher repeats a failure in forty lines; the failing process has said it in one."""
    import logging

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)


@contextmanager
def process_group() -> Iterator[Ranks]:
    """Join the processes that `launch` started, or be alone where nothing did."""
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        backend = "nccl"
    else:
        device, backend = torch.device("cpu"), "gloo"
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "0")) or os.cpu_count() or 1)
    leased = _hold_lease()
    if "MASTER_ADDR" in os.environ:
        dist.init_process_group(backend, timeout=TIMEOUT, device_id=device if backend == "nccl" else None)
    try:
        yield Ranks(rank, size, device)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        if leased is not None:
            leased.close()


def gather_objects(ranks: Ranks, value: Any) -> list[Any] | None:
    """Every rank's value, in the order of ranks, on rank 0; None elsewhere."""
    if ranks.size == 1:
        return [value]
    gathered: list[Any] | None = [None] * ranks.size if ranks.is_main else None
    dist.gather_object(value, gathered, dst=0)
    return gathered


def sum_over_ranks(ranks: Ranks, values: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all ranks, on every rank."""
    if ranks.size > 1:
        dist.all_reduce(values)
    return values


def broadcast_object(ranks: Ranks, value: Any) -> Any:
    """Rank 0's value, on every rank."""
    if ranks.size == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def barrier(ranks: Ranks) -> None:
    if ranks.size > 1:
        dist.barrier()
