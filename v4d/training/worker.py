"""What each process of a training runs: `python -m v4d.training.worker --config C --model M --stage S`."""

import argparse
import contextlib
import os
import signal
import sys
import time
import warnings
from typing import Any, TextIO

from v4d import config
from v4d.errors import V4DError
from v4d.training.distributed import PREEMPTED, process_group
from v4d.training.loop import Preempted
from v4d.training.stage import StageRun


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--stage", required=True)
    args = parser.parse_args()
    # 1x1 kernels have two names for one layout; DDP warns of a cost that copying a kilobyte does not have.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    sys.stdout, sys.stderr = Outliving(sys.stdout), Outliving(sys.stderr)
    try:
        with process_group() as ranks:
            try:
                StageRun(config.load(args.config), args.model, args.stage, ranks).run()
            except Preempted:  # all ranks alike
                if ranks.is_main:
                    print("asked to stop: the state is saved, the same command goes on from it", flush=True)
                return PREEMPTED
    except V4DError as error:
        if os.environ.get("RANK", "0") != "0":
            wait_for_main()
        print(f"v4d train: error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return 1
    return 0


class Outliving:
    """A stream whose reader may be gone, e.g. a `tee` that has heard the signal to stop too.

    What is said then is lost. The state, which is saved after it is said, is not.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(BrokenPipeError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def wait_for_main() -> None:
    """Most mistakes meet all ranks alike, and rank 0 says them: the launcher then ends this process here."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(5)


if __name__ == "__main__":
    sys.exit(main())
