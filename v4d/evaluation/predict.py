"""Classify single videos, exactly as the test stage would have.

Legend: N videos, V views (crops), U units, C, T frames of a unit, H, W, K classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from v4d import config as configuration
from v4d.checkpoints import load_any
from v4d.config import Config
from v4d.data.batch import normalise
from v4d.data.dataset import VideoRecord, ViewSpec
from v4d.data.loader import eval_loader
from v4d.data.sampling import ClipSpec, eval_indices
from v4d.errors import V4DError
from v4d.evaluation.explain import ActivationMaps, activation_maps, unit_logits
from v4d.evaluation.video_file import Source, prepared
from v4d.evaluation.views import Scorer


@dataclass(frozen=True)
class Prediction:
    """A video's scores, or what is wrong with it."""

    path: Path
    """The file."""
    problem: str = ""
    """Why there are no scores; empty where there are."""
    probabilities: np.ndarray = field(default_factory=lambda: np.empty(0))
    """`[K]`."""
    num_frames: int = 0
    """Of the file."""
    fps: float = 0.0
    """Frames a second of the file; 0 where it does not say it."""
    evidence: "Evidence | None" = None
    """What each unit says, where it was asked for."""

    def top(self, count: int) -> list[tuple[int, float]]:
        """The `count` best classes, best first: index and probability."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(int(index), float(self.probabilities[index])) for index in order]

    def as_dict(self, classes: Sequence[str], count: int) -> dict[str, Any]:
        """For JSON."""
        if self.problem:
            return {"video": str(self.path), "error": self.problem}
        best = [
            {"class": classes[index], "class_index": index, "probability": share}
            for index, share in self.top(count)
        ]
        return {"video": str(self.path), "num_frames": self.num_frames, "fps": self.fps, "top": best}

    def as_text(self, classes: Sequence[str], count: int) -> str:
        """A line for the video and one for each of its best classes."""
        lines = [f"{100 * share:7.2f} %  {classes[index]}" for index, share in self.top(count)]
        return "\n".join([str(self.path), *lines])


@dataclass(frozen=True)
class Evidence:
    """What every unit has to say, over the video's time."""

    seconds: np.ndarray
    """`[U]`: the middle of each unit."""
    span: float
    """Seconds that a unit covers."""
    probabilities: np.ndarray
    """`[U, K]`."""
    pictures: np.ndarray
    """uint8 `[U, H, W, 3]`: each unit's middle frame."""
    alone: bool
    """Whether each unit was scored by itself, without its neighbours."""


@dataclass(frozen=True)
class Explanation:
    """A network's answer for one class of one video, taken apart; one crop, the network's own units."""

    class_index: int
    """The class that is explained."""
    probability: float
    """Of that class, 0 to 1."""
    maps: ActivationMaps
    """Its logit, place by place."""
    frames: np.ndarray
    """uint8 `[U, T, H, W, 3]`: what the network saw."""
    seconds: np.ndarray
    """`[U, T]`: the time of each frame in the video."""
    rate: float
    """Frames a second of the frames of a unit."""

    def as_text(self, classes: Sequence[str]) -> str:
        """The class, its probability, and the sum that its logit is; the units' shares are in `maps`."""
        answer = f"{classes[self.class_index]}: {100 * self.probability:.1f} %"
        return f"{answer}, logit {self.maps.logit:.2f} = {self.maps.bias:+.2f} and the units"


class Predictor:
    """A model and its test protocol (how a video is prepared and shown), on a device."""

    def __init__(
        self, checkpoint: str | Path, config: Config | None = None, device: str = "cpu", **overrides: Any
    ):
        """Load a final, a released or an exported checkpoint, on the device "cpu", "cuda" or "auto".

        The protocol is the config's, where one is given; else what the checkpoint holds; else the defaults.
        A checkpoint that does not tell the crop of its test gets the frame's short side, which is what the
        released protocol's 256 of 320x256 are. `overrides` are fields of `TestingConfig`; None leaves them.

        Raises:
            V4DError: no such file, or none of these; no GPU for "cuda".
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        elif device == "cuda" and not torch.cuda.is_available():
            raise V4DError("--device cuda: this machine has no CUDA device")
        model = load_any(Path(checkpoint))
        if config is None:
            told = {k: model.info[k] for k in ("clips", "frames", "testing") if k in model.info}
            bare = {"name": "predict", "dataset": {"name": "own", "source": "folder"}}
            config = configuration.build(
                configuration.resolve(bare | {"testing": {"crop_size": None}} | told)
            )
        testing = config.testing.replace(**{k: value for k, value in overrides.items() if value is not None})
        if testing.units < model.units:
            testing = testing.replace(units=model.units)
        size = model.model.input.crop
        if size is not None and testing.crop_size != size:  # e.g. an exported program
            testing = testing.replace(crop_size=size, short_side=testing.short_side or size)
        self.clips, self.frames, self.testing = config.clips, config.frames, testing
        self.model, self.device = model, torch.device(device)
        model.model.to(self.device)
        self.bf16 = configuration.takes_bf16(testing.precision, self.device.type)

    def predict(
        self, paths: Sequence[Path], *, evidence: bool = False, processes: int = 1
    ) -> Iterator[Prediction]:
        """Every video in turn; one that cannot be read is a prediction with a problem."""
        for source in prepared(paths, self.clips, self.frames, processes=processes):
            try:
                if source.shard is None:
                    raise V4DError(source.problem)
                frames = self.show(source)
                scores = self.scores(frames)
                seen = self.evidence(frames, source) if evidence else None
            except V4DError as error:  # e.g. the crop is larger than this video's frames
                yield Prediction(source.path, str(error))
                continue
            yield Prediction(source.path, "", scores, source.num_frames, source.fps, seen)

    def show(self, source: Source, *, units: int | None = None, crops: int | None = None) -> Tensor:
        """What the network sees, as the test stage's loader makes it: uint8 `[1, V, U, T, H, W, 3]`."""
        testing = self.testing
        record = VideoRecord(Source.VIDEO_ID, 0, str(source.shard), source.num_frames)
        clip = ClipSpec(units or testing.units, self.model.frames, self.model.frame_stride)
        views = ViewSpec(testing.crop_size, crops or testing.crops, testing.short_side, testing.sampling)
        return next(iter(eval_loader([record], clip, views))).frames.to(self.device)

    def scores(self, frames_NVUTHWC: Tensor) -> np.ndarray:
        """Probabilities `[K]` of one video."""
        testing = self.testing.replace(orders=("normal",))
        scorer = Scorer(self.model.model, testing, self.bf16)
        return scorer(frames_NVUTHWC, [Source.VIDEO_ID])[0]["normal"][0]

    def evidence(self, frames_NVUTHWC: Tensor, source: Source) -> Evidence:
        """What each unit says by its own features, seen from the middle crop."""
        model = self.model
        frames = frames_NVUTHWC[:, frames_NVUTHWC.shape[1] // 2]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            logits = unit_logits(model.model, normalise(frames, model.model.input))
        indices = self._indices(source, self.testing.units)
        fps = source.fps or 25.0
        return Evidence(
            seconds=indices.mean(1) / fps,
            span=model.frames * model.frame_stride / fps,
            probabilities=logits.float().softmax(-1).cpu().numpy(),
            pictures=frames[0, :, model.frames // 2].cpu().numpy(),
            alone=model.model.unit_steps() is None,
        )

    def explain(self, path: Path, class_index: int | None = None) -> Explanation:
        """Take the answer for one video apart, in float32; None explains the best class.

        Raises:
            V4DError: the video cannot be read, or the network does not show its features.
        """
        if not path.is_file():
            raise V4DError(f"no such file: {path}")
        model = self.model
        for source in prepared([path], self.clips, self.frames, processes=1):
            if source.shard is None:
                raise V4DError(f"{path}: {source.problem}")
            frames = self.show(source, units=model.units, crops=1)[:, 0]
        x = normalise(frames, model.model.input)
        with torch.no_grad():
            probabilities = model.model(x)[0].softmax(-1)
        chosen = int(probabilities.argmax()) if class_index is None else class_index
        fps = source.fps or 25.0
        maps, probability = activation_maps(model.model, x, chosen), float(probabilities[chosen])
        seconds = self._indices(source, model.units) / fps
        seen = frames[0].cpu().numpy()
        return Explanation(chosen, probability, maps, seen, seconds, fps / model.frame_stride)

    def _indices(self, source: Source, units: int) -> np.ndarray:
        """Source frames `[U, T]` that a video is shown by."""
        centred = self.testing.sampling == "centred"
        return eval_indices(
            source.num_frames, units, self.model.frames, self.model.frame_stride, centred=centred
        )
