"""Cores, memory, disk and GPUs."""

import importlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from v4d.doctor.finding import FAIL, GB, OK, WARN, Finding, checked
from v4d.utils.files import existing_folder, free_bytes, lock

if TYPE_CHECKING:
    from v4d.config import Config

CUDNN_WRONG = range(90_800, 91_500)
"""9.8 to 9.14: half-precision 3D convolutions wrong or disabled (PyTorch issues 166122, 163539)."""


def check_cores() -> Finding:
    """Cores that this process may use, by affinity and by the container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    if quota is not None and quota < cores - 0.5:
        advice = f"snakemake --cores {max(1, int(quota))}, since `all` would count {cores}"
        return Finding(WARN, "cores", f"{cores}, of which the container gives {quota:g}", advice)
    return Finding(OK, "cores", str(cores))


def cpu_quota(path: Path = Path("/sys/fs/cgroup/cpu.max")) -> float | None:
    """Cores that the control group allows; None for no limit."""
    try:
        quota, period = path.read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def check_memory() -> Iterator[Finding]:
    """Main memory for a clips job, and shared memory for NCCL, by which a machine's GPUs talk."""
    try:
        import psutil
    except ImportError:
        yield Finding(WARN, "memory", "unknown without psutil", "pip install psutil")
        return
    free = psutil.virtual_memory().available
    advice = "a job of two workers takes up to 1 GB; take fewer cores"
    yield checked(free >= 2 * GB, "memory", f"{free / GB:.1f} GB available", advice)
    shared = Path("/dev/shm")
    if shared.exists():
        size = shutil.disk_usage(shared).total
        gigabytes = f"{size / GB:.2f}" if size < GB else f"{size / GB:.1f}"
        advice = "NCCL between GPUs passes through it: `docker run --shm-size=8g`"
        yield checked(size >= GB, "shared memory", f"/dev/shm has {gigabytes} GB", advice)


def check_disk(folder: Path, needed: float | None) -> Finding:
    """Room for what the config makes (bytes), or for the demo."""
    free = free_bytes(folder)
    wanted = GB if needed is None else needed
    found = f"{free / GB:,.1f} GB free at {existing_folder(folder)}"
    if free < wanted:
        advice = f"{wanted / GB:,.1f} GB are needed; make data/ a link to a larger disk"
        return Finding(FAIL, "disk", found, advice)
    return Finding(OK, "disk", f"{found}, {wanted / GB:,.1f} GB needed")


def needed_bytes(config: "Config") -> float:
    """What the data set takes beyond what is there already (`v4d estimate`)."""
    try:
        from v4d.preprocessing.estimate import estimate
    except ImportError:
        return 0.0  # what is missing has been said

    there = sum(path.stat().st_size for path in config.dataset.root.rglob("*") if path.is_file())
    return max(0.0, float(estimate(config)["disk_gb"].sum()) * GB - there)


def check_locks(folder: Path) -> Finding:
    """Writing, and locks that hold between processes."""
    folder = existing_folder(folder)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            lock(file.fileno(), wait=False)
    except PermissionError as error:
        return Finding(FAIL, "folder", f"{folder}: {error.strerror}", "work in a folder that you own")
    except OSError as error:
        advice = "never run two workflows on this file system at once"
        return Finding(WARN, "folder", f"{folder} has no file locks ({error.strerror})", advice)
    return Finding(OK, "folder", f"{folder} can be written and locked")


def check_gpus() -> Iterator[Finding]:
    """GPUs that torch sees, the cuDNN version, and whether convolutions are right on each GPU."""
    try:
        torch = importlib.import_module("torch")
    except Exception:
        return  # said already
    if not torch.cuda.is_available():
        if shutil.which("nvidia-smi"):
            advice = f"the driver is too old for CUDA {torch.version.cuda}, or torch is a CPU build"
            yield Finding(FAIL, "gpu", "nvidia-smi is there, and torch sees no GPU", advice)
        else:
            yield Finding(WARN, "gpu", "none", "the demo trains on the CPU, a large data set does not")
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found = f"{index}: {properties.name}, {properties.total_memory / GB:.0f} GB"
        has_bf16 = properties.major >= 8
        advice = "set training.precision and testing.precision: float32"
        yield checked(has_bf16, "gpu", found if has_bf16 else f"{found}, no bf16", advice)
    yield check_cudnn(torch.backends.cudnn.version())
    yield from check_convolutions(torch)


def check_cudnn(version: int | None) -> Finding:
    """The version against those that are known to be wrong."""
    if version is None:
        return Finding(FAIL, "cudnn", "none", "install a CUDA build of torch")
    text = f"{version // 10_000}.{version // 100 % 100}.{version % 100}"
    advice = "3D convolutions in half precision are wrong in 9.8 to 9.14: install 9.15 or later"
    return checked(version not in CUDNN_WRONG, "cudnn", text, advice)


def check_convolutions(torch) -> Iterator[Finding]:
    """Compare the results of each GPU with float64: a version that is known as good may still be wrong."""
    from v4d.models.numerics import CASES_2D, CASES_3D, wrong_cases

    for index in range(torch.cuda.device_count()):
        wrong_2d = wrong_cases(CASES_2D, f"cuda:{index}")
        wrong_3d = wrong_cases(CASES_3D, f"cuda:{index}")
        if wrong_2d:
            advice = "results are not to be trusted: install another cuDNN"
            yield Finding(FAIL, "convolutions", f"{index}: {wrong_2d[0]}", advice)
        elif wrong_3d:
            advice = "sums of 2D convolutions will be used, which is slower: install another cuDNN"
            yield Finding(WARN, "convolutions", f"{index}: {wrong_3d[0]}", advice)
        else:
            yield Finding(OK, "convolutions", f"{index}: as in float64, in bf16 and TF32")
