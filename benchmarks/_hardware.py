"""What a benchmark ran on, in one line, and its clock."""

import platform
import time
from collections.abc import Callable

import torch

from v4d.utils.provenance import hardware


def machine(threads: int | None = None) -> str:
    """Device, threads and versions; `threads` limits PyTorch on a CPU."""
    if torch.cuda.is_available():
        used = f"cuDNN {torch.backends.cudnn.version()}"
    else:
        torch.set_num_threads(threads or torch.get_num_threads())
        used = f"{torch.get_num_threads()} threads"
    return f"{hardware()}, {used}, torch {torch.__version__}, Python {platform.python_version()}"


def seconds(work: Callable[[], object]) -> float:
    """Time of one call: CPU seconds of the process, or wall-clock seconds of a GPU until it is done."""
    if not torch.cuda.is_available():
        start = time.process_time()
        work()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start
