"""Is a network compiled? As the config says; `auto` where it pays and works."""

import sys

import torch

from v4d.config import StageConfig, compiles
from v4d.distributed.group import DistributedContext, any_rank
from v4d.training.inputs import optimiser_steps
from v4d.utils.text import one_line


def will_compile(stage: StageConfig, videos: int, context: DistributedContext) -> bool:
    """The same answer on every rank; `videos` are those of the training split."""
    wanted, kind = stage.training.compile, context.device.type
    if not compiles(wanted, kind, optimiser_steps(stage.training, videos)):
        return False
    if wanted is True:
        return True
    failure = why_not(context.device)
    if failure is not None and context.is_main:
        print(f"training.compile: auto: goes on without torch.compile ({failure})", file=sys.stderr)
    return not any_rank(context, failure is not None)


def why_not(device: torch.device) -> str | None:
    """What keeps torch.compile from making a kernel here: no Triton, no C compiler, no headers of Python."""
    try:
        torch.compile(lambda x: x + 1, dynamic=False)(torch.zeros(8, device=device))
    except Exception as error:  # whatever a compiler and its cache raise
        return one_line(error)[:200]
    return None
