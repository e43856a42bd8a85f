"""Testing one video, 10 units into 4, three crops: Algorithm 1 with sharing against the released way.

    python benchmarks/inference.py                                   # a CPU core, 64 pixels
    python benchmarks/inference.py --pixels 256                      # as the paper tests

The released way (`_released_way.py`) runs the whole network on each of the 36 combinations. Scores of both
are compared. A CPU's times are CPU seconds, a GPU's wall-clock seconds. Nothing is asserted.
"""

import argparse
import statistics

import torch
from _hardware import machine, seconds
from _released_way import ReleasedWay, brute_force
from torch import Tensor

from v4d.evaluation import video_scores
from v4d.models import create_model

UNITS_TRAINED, UNITS, FRAMES, CROPS = 4, 10, 8, 3


def main() -> None:
    options = arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(machine(threads=1))
    print(f"V4D ResNet-50, released preset, {UNITS} into {UNITS_TRAINED} units of {FRAMES} frames, "
          f"{options.crops} crops of {options.pixels} pixels")  # fmt: skip
    torch.manual_seed(0)
    model = (
        create_model("v4d_resnet50", num_classes=400, units=UNITS_TRAINED, frames=FRAMES).to(device).eval()
    )
    torch.nn.init.normal_(model.fc.weight, std=0.1)  # scores that differ, to be compared
    theirs = ReleasedWay(model).to(device).eval()
    size = (options.crops, UNITS, FRAMES, options.pixels, options.pixels, 3)
    x = torch.randn(size, device=device).movedim(-1, 2)
    bf16 = device.type == "cuda"
    scores: dict[str, Tensor] = {}

    def released() -> None:
        by_crop = [brute_force(theirs, crop[None], UNITS_TRAINED) for crop in x]
        scores["released way, float32"] = torch.stack(by_crop).mean(0)

    def ours() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            scores["ours"] = video_scores(model, x).mean(0, keepdim=True)

    times: dict[str, list[float]] = {"released way, float32": [], "ours": []}
    for _ in range(options.rounds):
        times["released way, float32"].append(seconds(released))
        times["ours"].append(seconds(ours))
    baseline = statistics.median(times["released way, float32"])
    for name, values in times.items():
        median = statistics.median(values)
        print(f"  {name:<26} {median:8.2f} s a video   {baseline / median:5.2f}x")
    difference = (scores["ours"] - scores["released way, float32"]).abs().max()
    print(f"  largest difference of a probability: {difference:.1e}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--crops", type=int, default=CROPS)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
