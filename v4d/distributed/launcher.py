"""A job's processes (ranks): how many, on which GPUs, and what the job says when they have ended.

One process goes through the same path as many, so that everybody runs the distributed code. How they are
started: v4d.distributed.one_node, v4d.distributed.several_nodes.
"""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from v4d.distributed import gpu_lease, one_node, several_nodes
from v4d.distributed.job import LIFELINE, PREEMPTED, Ended, Interrupted
from v4d.distributed.rendezvous import meeting
from v4d.errors import V4DError
from v4d.utils.lifeline import lifeline


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

    SIGTERM and SIGUSR1 are passed on to the ranks, and to nobody else: without the loader's workers no rank
    gets to the step after which it saves its state. SIGINT (Ctrl-C), SIGHUP and SIGQUIT become SIGTERM for
    the ranks; a second one kills them. Where this process is killed itself (kill -9), so are they, at once,
    and save nothing: a training goes on from its last checkpoint.

    On several nodes the same command is started once a node; where they meet: `rendezvous.meeting`.

    Returns:
        0, or the exit code of the first rank that failed: 1 where a signal killed it, and PREEMPTED where
        that was one that was passed on, before there was anything to save; 130 after Ctrl-C. A rank that
        fails takes the others down.

    Raises:
        V4DError: the nodes do not find or have lost one another, or there are too few GPUs.
    """
    place = meeting(os.environ, [module, *argv])
    # Snakemake gives a job's threads in OMP_NUM_THREADS; they are for all of its processes together, and
    # twice as many threads as cores make a step several times as long.
    threads = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
    os.environ["OMP_NUM_THREADS"] = str(max(1, threads // processes))
    os.environ[LIFELINE] = lifeline()
    command = ["-u", "-m", module, *argv]
    try:
        with _leased_gpus(processes):
            if place.nodes == 1:
                ended = one_node.run(command, processes)
            else:
                ended = several_nodes.run(command, processes, place)
    except Interrupted:
        return 130
    return _exit_code(module, ended)


def _exit_code(module: str, ended: Ended) -> int:
    if -ended.code in ended.passed_on:  # before there was anything to save
        return PREEMPTED
    if ended.code < 0:
        name = signal.Signals(-ended.code).name
        print(f"{module}: rank {ended.rank} was killed by {name}", file=sys.stderr)
    return ended.code if 0 <= ended.code < 126 else 1


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
