"""What each process of a training runs: `python -m v4d.training.worker --config C --model M --stage S`."""

import argparse
import sys
import warnings

from v4d import config
from v4d.distributed.group import PipeSafeStream, exit_code_of, process_group
from v4d.distributed.launcher import PREEMPTED
from v4d.errors import V4DError
from v4d.training.step import Preempted
from v4d.training.trainer import Trainer


def main() -> int:
    """Train one stage as one of the ranks; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--config", "--model", "--stage"):
        parser.add_argument(name, required=True)
    args = parser.parse_args()
    # A 1x1 kernel is contiguous and channels last at once. DDP warns of a copy, which is a kilobyte here.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    # torch 2.11 knows no other name for it.
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
    # Only the classifier multiplies in float32, and it is to be exact.
    warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
    sys.stdout, sys.stderr = PipeSafeStream(sys.stdout), PipeSafeStream(sys.stderr)
    try:
        with process_group() as context:
            try:
                settings, model = config.load(args.config).run(args.model)
                Trainer(settings, model.name, args.stage, context).run()
            except Preempted:  # every rank raises it
                if context.is_main:
                    print("asked to stop: the state is saved, the same command goes on from it", flush=True)
                return PREEMPTED
    except V4DError as error:
        return exit_code_of(error, "v4d train")
    return 0


if __name__ == "__main__":
    sys.exit(main())
