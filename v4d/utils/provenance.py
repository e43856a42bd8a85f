"""Where a number came from: code, machine and installed packages."""

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
        sha = _git(here, "rev-parse", "HEAD")
        dirty = _git(here, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{sha}-dirty" if dirty else sha


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
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=True
    )
    return done.stdout.strip()
