"""This machine's GPU, proven and measured by one command; prints a table and writes gpu.json.

    make gpu                                 # about six minutes on one GPU
    python benchmarks/gpu.py --tiny          # every branch on a CPU, small; its figures mean nothing
    python benchmarks/gpu.py --only steps    # one part: parity, steps, feeding, testing, training

It needs what training needs (torch 2.11 or later, numpy, pandas, pyarrow, pyyaml, pydantic, lmdb, simplejpeg)
and, for decoding on the GPU, torchvision. It makes its own data and opens no connection. It fails where a
check does not hold; figures are not asserted.
"""

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import _gpu_feeding
import _gpu_parity
import _gpu_steps
import _gpu_testing
import _gpu_training
import torch
from _gpu import Run
from _hardware import machine

PARTS: dict[str, Callable[[Run], None]] = {
    "parity": _gpu_parity.measure,
    "steps": _gpu_steps.measure,
    "feeding": _gpu_feeding.measure,
    "testing": _gpu_testing.measure,
    "training": _gpu_training.measure,
}


def main() -> int:
    options = arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not options.tiny:
        print("gpu.py: error: no GPU is seen; --tiny goes through everything on a CPU", file=sys.stderr)
        return 1
    about = {"machine": machine(), "gpus": torch.cuda.device_count(), "tiny": options.tiny, "seconds": {}}
    print(about["machine"])
    with tempfile.TemporaryDirectory(prefix="v4d-gpu-") as folder:
        run = Run(device, options.tiny, Path(folder))
        for name in options.only or PARTS:
            run.part, begun = name, time.monotonic()
            print(f"\n{name}", flush=True)
            try:
                PARTS[name](run)
            except Exception as error:  # the other parts still have something to say
                traceback.print_exc()
                run.failures.append(f"{name}: {type(error).__name__}: {error}")
            about["seconds"][name] = round(time.monotonic() - begun, 1)
            run.save(options.output, about | {"failures": run.failures})
    print(f"\n{options.output}: {', '.join(f'{n} {s} s' for n, s in about['seconds'].items())}")
    for line in run.failures:
        print(f"gpu.py: failed: {line}", file=sys.stderr)
    return 1 if run.failures else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes, also on a CPU")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="these parts alone")
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
