"""Several machines in one training: how many there are, and where they meet.

Every node runs the same command. `V4D_NNODES` and `V4D_RENDEZVOUS` (host:port) say it outright; else what
torchrun's own variables say (`PET_NNODES`, `PET_RDZV_ENDPOINT` or `PET_MASTER_ADDR` and `PET_MASTER_PORT`,
which Kubeflow sets on Kubernetes), or Slurm's step: its first node, at a port that follows from the job.
"""

import hashlib
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from v4d.errors import V4DError

FIRST_PORT, PORTS = 29400, 1000
"""Below the range that Linux gives to outgoing connections."""


@dataclass(frozen=True)
class Rendezvous:
    """Number of nodes, the address (host:port) of their meeting, and a name that all of them give it."""

    nodes: int
    endpoint: str
    name: str


def meeting(environ: Mapping[str, str], command: Sequence[str]) -> Rendezvous:
    """What the environment says; `command` tells two trainings of one Slurm job apart.

    Raises:
        V4DError: no number, several nodes and no place to meet, or several tasks a node.
    """
    keys = ("V4D_NNODES", "PET_NNODES", "SLURM_STEP_NUM_NODES")
    source = next((key for key in keys if environ.get(key)), "")
    count = environ[source] if source else "1"
    if not count.isdigit() or int(count) < 1:
        raise V4DError(f"{source}={count}: a number of nodes is expected")
    if int(count) == 1:
        return Rendezvous(1, "localhost:0", uuid.uuid4().hex)
    tasks = environ.get("SLURM_STEP_NUM_TASKS", count)
    if source == "SLURM_STEP_NUM_NODES" and tasks != count:
        raise V4DError(f"{tasks} tasks on {count} nodes: start one a node (srun --ntasks-per-node=1)")
    digest = hashlib.sha256("\0".join([environ.get("SLURM_JOB_ID", ""), *command]).encode()).hexdigest()
    endpoint = _endpoint(environ, int(digest[:8], 16) % PORTS)
    if not endpoint:
        raise V4DError(f"{count} nodes ({source}): set V4D_RENDEZVOUS=HOST:PORT, the same on every node")
    return Rendezvous(int(count), endpoint, digest[:32])


def _endpoint(environ: Mapping[str, str], number: int) -> str:
    named = environ.get("V4D_RENDEZVOUS") or environ.get("PET_RDZV_ENDPOINT")
    if named:
        return named
    if environ.get("PET_MASTER_ADDR"):
        return f"{environ['PET_MASTER_ADDR']}:{environ.get('PET_MASTER_PORT', FIRST_PORT)}"
    nodes = environ.get("SLURM_STEP_NODELIST", "")
    return f"{first_node(nodes)}:{FIRST_PORT + number}" if nodes else ""


def first_node(nodes: str) -> str:
    """`gpu[03-05,9],login` -> `gpu03`: Slurm's short form of a list of hosts."""
    first = re.sub(r"\[(\w+)[^\]]*\]", r"\1", nodes).split(",")[0]
    if not re.fullmatch(r"[\w.-]+", first):
        raise V4DError(f"SLURM_STEP_NODELIST={nodes}: no list of hosts; set V4D_RENDEZVOUS=HOST:PORT")
    return first
