"""Videos to look at: some that a model got right, and its worst mistakes, with a picture of every unit."""

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import simplejpeg
import torch
import torch.nn.functional as F

from v4d.config import Config
from v4d.data.sampling import eval_indices
from v4d.data.shards import open_store
from v4d.errors import V4DError
from v4d.evaluation.predictions import read_columns

THUMBNAIL_HEIGHT = 72
"""Pixels."""


@dataclass(frozen=True)
class Sample:
    """A video and what was said about it."""

    video_id: str
    label: str
    right: bool
    best: list[tuple[str, float]]  # classes and their probabilities in percent, best first
    label_probability: float
    thumbnails: list[str]  # data addresses, one a unit; none where the frames are gone


def samples(config: Config, model_name: str, result: dict[str, Any], classes: list[str], count: int = 3):
    """`count` right ones of different classes, if there are, and the `count` most confident mistakes."""
    path = config.paths.predictions(model_name)
    columns = ["video_id", "label", "class_index", "part", "confidence", "label_rank"]
    table = read_columns(path, columns).to_pandas()
    right = table[table["label_rank"] == 0].sample(frac=1, random_state=config.seed)
    varied = pd.concat([right.drop_duplicates("label"), right[right.duplicated("label")]]).head(count)
    wrong = (
        table[table["label_rank"] > 0].sort_values("confidence", ascending=False, kind="stable").head(count)
    )
    probabilities = _probabilities(path, {*varied["video_id"], *wrong["video_id"]})
    chosen = [_sample(config, row, probabilities, classes, result) for row in varied.itertuples()]
    return chosen, [_sample(config, row, probabilities, classes, result) for row in wrong.itertuples()]


def _probabilities(path: Path, video_ids: set[str]) -> dict[str, np.ndarray]:
    wanted = [("video_id", "in", sorted(video_ids))]
    table = read_columns(path, ["video_id", "probabilities"], filters=wanted)
    return {row["video_id"]: np.array(row["probabilities"]) for row in table.to_pylist()}


def _sample(config: Config, row: Any, probabilities: dict, classes: list[str], result: dict) -> Sample:
    scores = probabilities[row.video_id]
    best = np.argsort(-scores, kind="stable")[:3]
    shard = config.dataset.paths.shard(config.testing.split, row.part)
    return Sample(
        row.video_id,
        row.label,
        row.label_rank == 0,
        [(classes[i], float(100 * scores[i])) for i in best],
        float(100 * scores[row.class_index]),
        thumbnails(shard, row.video_id, result, centred=config.testing.sampling == "centred"),
    )


def thumbnails(shard: Path, video_id: str, result: dict[str, Any], *, centred: bool) -> list[str]:
    """The middle frame of every unit as an address with the JPEG in it; none where the shard is gone."""
    try:
        reader = open_store(shard)
        count = reader.num_frames(video_id)
        units, frames, stride = (result[key] for key in ("test_units", "frames", "frame_stride"))
        indices = eval_indices(count, units, frames, stride, centred=centred)
        pictures = reader.frames(video_id, indices[:, frames // 2])
    except (V4DError, OSError):
        return []
    return [jpeg_address(picture) for picture in pictures]


def jpeg_address(picture: np.ndarray, height: int = THUMBNAIL_HEIGHT) -> str:
    """A picture uint8 `[H, W, 3]`, scaled down to `height`, as a data address."""
    if picture.shape[0] > height:
        width = round(picture.shape[1] * height / picture.shape[0])
        pixels = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None]
        small = F.interpolate(pixels, size=(height, width), mode="bilinear", antialias=True)
        picture = small[0].permute(1, 2, 0).contiguous().numpy()
    jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(picture), quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
