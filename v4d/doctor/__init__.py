"""Is this machine able to run the pipeline? One line a check: ok, warn or fail, what was found, what to do.

Nothing is imported before its check, so that the doctor runs on the machine where half of it is missing.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from v4d.doctor import hardware, software
from v4d.doctor.finding import FAIL, OK, WARN, Finding

if TYPE_CHECKING:
    from v4d.config import Config

MLFLOW_PORT = 5000

__all__ = ["FAIL", "OK", "WARN", "Finding", "examine"]


def examine(config: "Config | None" = None) -> Iterator[Finding]:
    """All checks, in the order in which one would put things right.

    Args:
        config: makes disk and tracking those of this config.
    """
    folder = config.dataset.root if config else Path()
    yield software.check_python()
    yield from software.check_packages()
    yield from software.check_ffmpeg()
    if config:
        from v4d.config import notes

        yield from software.check_source(config)
        yield from (Finding(WARN, "config", *line.split("; ")) for line in notes(config))
    yield hardware.check_cores()
    yield from hardware.check_memory()
    yield hardware.check_disk(folder, hardware.needed_bytes(config) if config else None)
    yield hardware.check_locks(folder)
    yield from hardware.check_gpus()
    uri = config.tracking.uri if config and config.tracking.backend == "mlflow" else ""
    yield software.check_server(uri) if uri.startswith("http") else software.check_port(MLFLOW_PORT)
