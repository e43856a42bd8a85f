"""A small data set and small models made by hand, for the tests of testing, reporting and predicting.

A video is a few plain colours, so that what a model says about it can be worked out on paper.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import simplejpeg
import torch
import yaml

from v4d import config as configuration
from v4d.config import Config
from v4d.data.shard_writer import ShardHeader, ShardWriter
from v4d.models import create_model
from v4d.models.checkpoint import save_model
from v4d.preprocessing import manifest

COLOURS = {"red": (220, 30, 30), "green": (30, 220, 30), "blue": (30, 30, 220), "black": (20, 20, 20)}
CLASSES = list(COLOURS)
NASTY = "jumping <script>alert('x')</script> & \"more\" | $x^2$"
"""A class name that must not get out of its cell."""
NASTY_CLASSES = [*CLASSES[:3], NASTY]
SIZE = (48, 32)
"""Width and height of all frames."""


def plain(colour: tuple[int, int, int], frames: int) -> np.ndarray:
    """uint8 `[frames, H, W, 3]` of one colour."""
    return np.broadcast_to(np.array(colour, np.uint8), (frames, SIZE[1], SIZE[0], 3)).copy()


def coloured_videos(count: int, frames: int = 40) -> list[tuple[str, int, np.ndarray]]:
    """`count` videos, classes in turn; every fifth shows another colour than its label says."""
    videos = []
    for number in range(count):
        label = number % len(CLASSES)
        shown = (label + 1) % len(CLASSES) if number % 5 == 4 else label
        shade = np.clip(np.array(COLOURS[CLASSES[shown]]) + number, 0, 255)
        videos.append((f"video_{number:03d}", label, plain(tuple(shade), frames)))
    return videos


def moving_videos(count: int, frames: int = 40, seed: int = 0) -> list[tuple[str, int, np.ndarray]]:
    """Noise that drifts: every unit and frame of a video looks different."""
    rng = np.random.default_rng(seed)
    videos = []
    for number in range(count):
        picture = rng.integers(0, 255, (SIZE[1] // 4, SIZE[0] // 4, 3)).repeat(4, 0).repeat(4, 1)
        drift = np.stack([np.roll(picture, (frame, number * frame), (0, 1)) for frame in range(frames)])
        fade = np.linspace(0.3, 1.0, frames)[:, None, None, None]
        videos.append((f"video-{number:03d}", number % len(CLASSES), (drift * fade).astype(np.uint8)))
    return videos


def write_data(
    config: Config,
    videos: list[tuple[str, int, np.ndarray]],
    *,
    classes: list[str] = CLASSES,
    bad: dict[str, str] | None = None,
) -> None:
    """The files of a data set whose only split is val: annotations, shards, ledgers, manifest.

    `bad` are further videos of class 0 that were lost, id: status.
    """
    root = config.dataset.root
    (root / "annotations").mkdir(parents=True)
    (root / "annotations" / "classes.json").write_text(json.dumps(classes))
    rows = [_row(name, label, classes, config) for name, label, _ in videos]
    rows += [_row(name, 0, classes, config) | {"status": why} for name, why in (bad or {}).items()]
    annotated = pd.DataFrame(rows).assign(time_start=np.nan, time_end=np.nan, split="val", path="")
    size = config.dataset.part_size
    annotated["part"] = [f"part_{number // size}" for number in range(len(annotated))]
    columns = ["video_id", "label", "class_index", "time_start", "time_end", "split", "part", "path"]
    annotated[columns].to_parquet(root / "annotations" / "val.parquet", index=False)
    frames = {name: pixels for name, _, pixels in videos}
    (root / "frames" / "val").mkdir(parents=True)
    (root / "clips" / "val").mkdir(parents=True)
    for part, ledger in annotated.groupby("part"):
        clips = ledger.assign(reason="")
        clips.to_parquet(root / "clips" / "val" / f"{part}.parquet", index=False)
        _write_part(root / "frames" / "val" / str(part), ledger, frames)
    manifest.write_manifest(config)


def _row(name: str, label: int, classes: list[str], config: Config) -> dict:
    return {"video_id": name, "label": classes[label], "class_index": label, "status": "ok"}


def _write_part(path: Path, ledger: pd.DataFrame, frames: dict[str, np.ndarray]) -> None:
    ledger = ledger.drop(columns="path").copy()
    with ShardWriter(path.with_suffix(".lmdb"), ShardHeader(size=SIZE, quality=95)) as writer:
        for row in ledger[ledger["status"] == "ok"].itertuples():
            jpegs = [
                simplejpeg.encode_jpeg(frame, quality=95, colorsubsampling="444")
                for frame in frames[row.video_id]
            ]
            writer.add(
                row.video_id,
                jpegs,
                class_index=row.class_index,
                num_frames=len(jpegs),
                fps=25.0,
                size=SIZE,
                source_size=SIZE,
            )
    count = [len(frames.get(name, ())) for name in ledger["video_id"]]
    ok = ledger["status"] == "ok"
    ledger["reason"] = np.where(ok, "", "the decoder's own words <b>&amp;")
    ledger["num_frames"] = count
    ledger = ledger.assign(fps=25.0, width=SIZE[0], height=SIZE[1], bytes=1000, replaced=False)
    ledger.to_parquet(path.with_suffix(".parquet"), index=False)


def write_config(path: Path = Path("config.yaml"), **overlay) -> Config:
    """A config of models with finished checkpoints, tested on the split val."""
    document = {
        "name": "hand",
        "dataset": {
            "name": "colours",
            "source": "synthetic",
            "splits": ["val"],
            "part_size": 7,
            "max_bad_share": 1.0,
            "synthetic": {"videos": {"val": 12}},
        },
        "models": {
            "colour": {
                "arch": "v4d_tiny",
                "units": 2,
                "frames": 3,
                "frame_stride": 2,
                "checkpoint": "colour.pt",
            }
        },
        "training": {"split": "val", "crop": {"size": 32}},
        "testing": {"units": 5, "crops": 3, "crop_size": 32, "batch_size": 2},
        "tracking": {"backend": "none"},
    }
    document = configuration.merge(document, overlay)
    path.write_text(yaml.safe_dump(document))
    return configuration.load(path)


def colour_model(path: Path = Path("colour.pt"), *, arch: str = "v4d_tiny", units: int = 2, frames: int = 3):
    """A network with known logits: 10 times the mean over all frames of relu(normalised R, G, B), then 1.

    All residual branches are zero, shortcuts and stem pass the channels 0 to 2 on.
    """
    model = create_model(arch, num_classes=4, units=units, frames=frames, dropout=0.0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.zero_()
            if "downsample.0" in name or name == "stem.conv.weight":
                centre = weight.shape[2] // 2
                for channel in range(3):
                    weight[channel, channel, centre, centre] = 1
            if name == "fc.weight":
                weight[:3, :3] = 10 * torch.eye(3)
                model.fc.bias[3] = 1
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.fill_(1 - module.eps)
    return save(model, path)


def random_model(path: Path, *, arch: str = "v4d_tiny", units: int = 2, frames: int = 3, seed: int = 0):
    """A network that tells videos, units and frames apart for no reason."""
    torch.manual_seed(seed)
    model = create_model(arch, num_classes=4, units=units, frames=frames, dropout=0.5)
    with torch.no_grad():
        model.fc.weight.normal_(0, 2)
        for block in model.blocks4d().values():
            block.conv.weight.normal_(0, 0.2)
    return save(model, path)


def save(model, path: Path, classes: list[str] = CLASSES, **info):
    architecture = {"arch": model.spec["arch"], "num_classes": 4}
    architecture |= {key: model.spec[key] for key in ("units", "frames")}
    info = {"stage": {"frame_stride": 2}} | info
    save_model(path, model, architecture=architecture, classes=classes, info=info)
    return model.eval()
