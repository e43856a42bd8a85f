"""Videos a second of the test protocol, ours against the released way, on this machine.

    python benchmarks/test_stage.py                     # a CPU core: small frames, one crop, the same ratio
    python benchmarks/test_stage.py --pixels 256 --crops 3 --batch 4

The network is V4D ResNet-50 (released preset, 4 units of 8 frames, 400 classes). A video has 10 units, so
Algorithm 1 has 36 combinations. The released way (`_released_way.py`) runs the whole network on each of them,
in float32. Both start at JPEG frames in a shard and end at a video's probabilities, which are compared.
Rounds are interleaved; times are CPU seconds on a CPU and wall-clock seconds on a GPU. Nothing is asserted.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from _hardware import machine, seconds
from _released_way import ReleasedWay, brute_force

from v4d.config import TestingConfig
from v4d.data.batch import normalise, prefetch
from v4d.data.dataset import VideoRecord, ViewSpec
from v4d.data.loader import default_workers, eval_loader
from v4d.data.sampling import ClipSpec
from v4d.data.shard_writer import ShardHeader, ShardWriter
from v4d.evaluation.views import Scorer
from v4d.models import create_model

UNITS_TRAINED, UNITS, FRAMES, STRIDE = 4, 10, 8, 8


def main() -> None:
    options = arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(machine(threads=1))
    torch.manual_seed(0)
    model = create_model("v4d_resnet50", num_classes=400, units=UNITS_TRAINED, frames=FRAMES)
    torch.nn.init.normal_(model.fc.weight, std=0.1)  # scores that differ, to be compared
    model.to(device).eval()
    print(f"V4D ResNet-50, {UNITS} into {UNITS_TRAINED} units of {FRAMES} frames, {options.crops} crops of "
          f"{options.pixels} pixels, {options.videos} videos")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        videos = make_shard(Path(folder) / "part_0.lmdb", options.videos, options.pixels)
        times: dict[str, list[float]] = {"released way": [], "ours": []}
        found: dict[str, tuple[np.ndarray, float]] = {}
        waits, difference = [], 0.0
        for _ in range(options.rounds):
            for name, way in (("released way", released_way), ("ours", our_way)):
                times[name].append(
                    seconds(lambda: found.update({name: way(model, videos, options, device)}))  # noqa: B023
                )
            waits.append(found["ours"][1])
            difference = max(difference, float(np.abs(found["ours"][0] - found["released way"][0]).max()))
    base = statistics.median(times["released way"])
    print(f"{'':14}{'s a video':>11}{'videos/s':>11}{'ratio':>8}")
    for name, values in times.items():
        a_video = statistics.median(values) / options.videos
        print(f"{name:14}{a_video:11.3f}{1 / a_video:11.3f}{base / statistics.median(values):8.2f}")
    print(f"largest difference of a probability: {difference:.1e}")
    print(f"share of time that ours waits for data: {100 * statistics.median(waits):.1f} %")


def arguments() -> argparse.Namespace:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pixels", type=int, default=256 if on_gpu else 64, help="side of a crop")
    parser.add_argument("--crops", type=int, default=3 if on_gpu else 1)
    parser.add_argument("--videos", type=int, default=16 if on_gpu else 1)
    parser.add_argument("--batch", type=int, default=4 if on_gpu else 1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chunk", type=int, default=64, help="testing.chunk")
    return parser.parse_args()


def make_shard(path: Path, videos: int, pixels: int) -> list[VideoRecord]:
    """Frames of 5:4, as 320x256 is, with about as much in them as camera footage (some 17 kB at 320x256)."""
    width, height, count = pixels * 5 // 4, pixels, 120
    rng = np.random.default_rng(0)
    records = []
    with ShardWriter(path, ShardHeader(size=(width, height), quality=90)) as writer:
        for number in range(videos):
            coarse = torch.from_numpy(
                rng.integers(0, 255, (count, 3, height // 8, width // 8), dtype=np.uint8)
            )
            smooth = F.interpolate(coarse, (height, width), mode="bilinear").permute(0, 2, 3, 1).contiguous()
            jpegs = [
                simplejpeg.encode_jpeg(frame, quality=90, colorsubsampling="420") for frame in smooth.numpy()
            ]
            name, size = f"video_{number}", (width, height)
            writer.add(name, jpegs, class_index=0, num_frames=count, fps=25.0, size=size, source_size=size)
            records.append(VideoRecord(name, 0, str(path), count))
    return records


def batches(videos: list[VideoRecord], options: argparse.Namespace, batch: int, device: torch.device):
    loader = eval_loader(
        videos,
        ClipSpec(UNITS, FRAMES, STRIDE),
        ViewSpec(options.pixels, options.crops),
        batch_size=batch,
        workers=0 if device.type == "cpu" else default_workers(),
    )
    return loader, prefetch(loader, device)


def our_way(model, videos, options, device) -> tuple[np.ndarray, float]:
    """What the test stage does, normal order alone: scores, and the share of time spent waiting for data."""
    testing = TestingConfig(orders=("normal",), chunk=options.chunk)
    scorer = Scorer(model, testing, bf16=device.type == "cuda")
    loader, stream = batches(videos, options, options.batch, device)
    scores = [scorer(batch.frames, batch.video_id)[0]["normal"] for batch in stream]
    return np.concatenate(scores), loader.data_wait_fraction


def released_way(model, videos, options, device) -> tuple[np.ndarray, float]:
    """Every combination through the whole network, video by video and crop by crop."""
    network = ReleasedWay(model).to(device).eval()
    loader, stream = batches(videos, options, 1, device)
    scores = []
    for batch in stream:
        crops = [normalise(crop[None], model.input).contiguous() for crop in batch.frames[0]]
        by_crop = torch.stack([brute_force(network, x, UNITS_TRAINED) for x in crops])
        scores.append(by_crop.mean(0).cpu().numpy())
    return np.concatenate(scores), loader.data_wait_fraction


if __name__ == "__main__":
    main()
