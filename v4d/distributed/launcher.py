"""Processes: started by torchrun's launcher, joined by gloo on a CPU and nccl on GPUs.

One process goes through the same path as many, so that everybody runs the distributed code.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from v4d.distributed import gpu_lease
from v4d.distributed.rendezvous import meeting
from v4d.errors import V4DError

PREEMPTED = 75
"""Exit code of a job that saved its state and wants to be started again (EX_TEMPFAIL)."""


def processes_for(asked: int | None, granted: int, cpu_processes: int) -> int:
    """How many processes to start: `asked` if given, else one a granted GPU, or `cpu_processes` on a CPU.

    Raises:
        V4DError: less than one, or more than there are GPUs.
    """
    if asked is not None and asked < 1:
        raise V4DError(f"--nproc {asked}: at least one process is needed")
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

    Raises:
        V4DError: the nodes do not find or have lost one another, or there are too few GPUs.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
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
        signals_to_handle="SIGINT,SIGHUP,SIGQUIT",
    )
    _quieten_launcher()
    received: set[int] = set()
    try:
        with _leased_gpus(processes):
            _pass_on_stop_signals(received)
            elastic_launch(config, sys.executable)("-u", "-m", module, *argv)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = failure.exitcode
        if -code in received:  # before there was anything to save
            return PREEMPTED
        if code < 0:
            print(f"{module}: rank {rank} was killed by {signal.Signals(-code).name}", file=sys.stderr)
        return code if 0 < code < 126 else 1
    except RendezvousError as error:  # also when the node that the others meet at is gone
        why = str(error).partition(". ")[0]
        raise V4DError(f"{place.nodes} nodes at {place.endpoint} did not stay together: {why}") from error
    except Exception as error:
        if type(error).__name__ == "SignalException":  # Ctrl-C: torch has ended the processes
            return 130
        raise
    return 0


@contextmanager
def _leased_gpus(processes: int) -> Iterator[None]:
    """Let the processes see GPUs that are theirs alone, one each; nothing on a CPU."""
    if torch.cuda.device_count() == 0 or os.environ.get(gpu_lease.SHARE, "0") != "0":
        yield
        return
    folder = gpu_lease.lease_folder()
    with gpu_lease.lease(gpu_lease.visible_gpus(), processes, folder) as taken:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpu.token for gpu in taken)
        os.environ[gpu_lease.HOLDER] = str(os.getpid())
        os.environ[gpu_lease.LEASES] = os.pathsep.join(str(gpu_lease.lock_file(gpu, folder)) for gpu in taken)
        yield


def _pass_on_stop_signals(received: set[int]) -> None:
    """Pass SIGTERM and SIGUSR1 on to the processes, which take the time that they need to save; note them.

    torch's launcher would send SIGTERM to the loader's workers as well, without which no process gets to its
    next step, and would kill everything after 30 seconds.
    """
    import psutil

    def pass_on(number: int, frame: Any) -> None:
        received.add(number)
        children = psutil.Process().children()
        if not children:  # it still waits for other nodes
            raise SystemExit(PREEMPTED)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, pass_on)


def _quieten_launcher() -> None:
    """The launcher repeats a failure in forty lines; the failing process has said it in one."""
    import logging

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
