"""Where a number came from: code, machine and installed packages."""

import contextlib
import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path


@functools.cache
def git_sha() -> str:
    """The commit of the code, with "-dirty" where files differ from it; "" outside a checkout."""
    here = Path(__file__).parent
    try:
        words = ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
        return subprocess.run(words, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def hardware() -> str:
    """One line: GPUs, or the CPU and the number of cores this process may use."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
        return ", ".join(f"{names.count(name)} x {name}" for name in sorted(set(names)))
    return f"{len(os.sched_getaffinity(0))} x {_cpu_name()}"


def packages() -> str:
    """Installed packages, a line each as `pip freeze` prints them."""
    found = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions() if d.metadata["Name"]}
    return "".join(f"{name}=={found[name]}\n" for name in sorted(found, key=str.lower))


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
