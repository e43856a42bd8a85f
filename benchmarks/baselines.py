"""The ways of reading a sample, and of extracting frames, that ours are measured against.

Written from the description of the released code's steps, not from the code.
"""

import io
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from PIL import Image

from v4d.data import sampling
from v4d.data import transforms as augment
from v4d.data.shards import ShardReader
from v4d.data.transforms import Augmentation
from v4d.models.base import IMAGENET_MEAN, IMAGENET_STD

UNITS, FRAMES, STRIDE, SIZE = 4, 8, 8, 224
WIDTH, HEIGHT = 320, 256


def draw(num_frames: int, seed: int, config) -> tuple[np.ndarray, Augmentation]:
    """The frame numbers and the crop of one training sample: the same for every method."""
    generator = np.random.default_rng(seed)
    indices = sampling.train_indices(num_frames, UNITS, FRAMES, STRIDE, generator).reshape(-1)
    return indices, augment.pick(config, HEIGHT, WIDTH, generator)


def released(clip: Path, indices: np.ndarray, augmentation: Augmentation) -> torch.Tensor:
    """decord frame by frame, PIL for each, floats, normalised, `[C, T, H, W]`."""
    import decord

    reader = decord.VideoReader(str(clip))
    box, images = augmentation.box, []
    for index in indices.tolist():
        image = Image.fromarray(reader[index].asnumpy()).resize((WIDTH, HEIGHT), Image.BILINEAR)
        image = image.crop((box.left, box.top, box.left + box.width, box.top + box.height))
        image = image.resize((SIZE, SIZE), Image.BILINEAR)
        if augmentation.flip:
            image = image.transpose(Image.FLIP_LEFT_RIGHT)
        images.append(np.asarray(image))
    frames = torch.from_numpy(np.stack(images)).permute(3, 0, 1, 2).contiguous().float().div(255)
    mean, std = (torch.tensor(values)[:, None, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return frames.sub_(mean).div_(std)


def decord_batch(clip: Path, indices: np.ndarray, augmentation: Augmentation) -> torch.Tensor:
    """decord's `get_batch`, scaled by the decoder; our crop."""
    import decord

    reader = decord.VideoReader(str(clip), width=WIDTH, height=HEIGHT)
    return augment.apply(torch.from_numpy(reader.get_batch(indices).asnumpy()), augmentation)


def torchcodec_batch(clip: Path, indices: np.ndarray, augmentation: Augmentation) -> torch.Tensor:
    """torchcodec on the clip in its own size, our crop (of the same share of the frame)."""
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(clip), dimension_order="NHWC", num_ffmpeg_threads=1)
    return augment.apply(decoder.get_frames_at(indices.tolist()).data, augmentation)


def floor(reader: ShardReader, video_id: str, indices: np.ndarray) -> None:
    """Nothing but what no reader of JPEGs gets round: fetch and decode the distinct frames."""
    image = np.empty((HEIGHT, WIDTH, 3), dtype=np.uint8)
    number, get = reader.video(video_id).number, reader._map.transaction().get
    for index in dict.fromkeys(indices.tolist()):
        jpeg = get(b"1" + number.to_bytes(4, "big") + index.to_bytes(4, "big"))
        simplejpeg.decode_jpeg(jpeg, buffer=image)


def extract_pil(clip: Path, quality: int) -> list[bytes]:
    """decord frame by frame, PIL's resize, PIL's JPEG."""
    import decord

    reader, jpegs = decord.VideoReader(str(clip), num_threads=1), []
    for index in range(len(reader)):
        image = Image.fromarray(reader[index].asnumpy()).resize((WIDTH, HEIGHT), Image.BILINEAR)
        image.save(buffer := io.BytesIO(), "JPEG", quality=quality)
        jpegs.append(buffer.getvalue())
    return jpegs
