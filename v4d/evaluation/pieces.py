"""The work of a test, cut into pieces that any number of ranks can share and a killed test can go on with.

    results/<name>/<model>/test/pieces/plan.json      what the scores depend on
    results/<name>/<model>/test/pieces/000000.parquet   the first piece's predictions
    results/<name>/<model>/test/pieces/rank_0.json    written when a rank has done its share

The pieces are the same for any number of ranks: rank r takes the pieces r, r + size and so on. So no video
is padded or seen twice, memory does not grow with the data set, and the result does not depend on the ranks.
"""

import dataclasses
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from v4d import config as configuration
from v4d.checkpoints import checkpoint_path, load_finished
from v4d.config import Config, ModelConfig, TestingConfig
from v4d.data import index
from v4d.data.batch import prefetch
from v4d.data.dataset import VideoRecord, ViewSpec
from v4d.data.loader import Loader, default_workers, eval_loader
from v4d.data.sampling import ClipSpec
from v4d.distributed.group import DistributedContext
from v4d.evaluation.predictions import predictions_table, write_table
from v4d.evaluation.views import Scorer, unit_counts
from v4d.models.base import check_crop
from v4d.utils.files import file_sha256, read_json, write_json
from v4d.utils.progress import LogLines

FORMAT = 1
"""Raised when the same settings would give other predictions than before; in bf16 it is one more, since
classifiers sum in float32."""
PIECES = 64
LARGEST_PIECE = 128
"""Videos; what a kill can cost a rank."""


@dataclasses.dataclass
class Clock:
    """Time of one rank."""

    seconds: float = 0.0
    """From the start to `stop`."""
    wait: float = 0.0
    """Seconds of these in which it waited for data."""
    videos: int = 0
    """Scored by this rank."""
    normal: float = 0.0
    """Seconds of these in which it scored the normal order."""
    crops: int = 0
    """Of all its videos."""
    pixels: tuple[int, ...] = (0, 0)
    """Height and width of a crop."""

    def __post_init__(self) -> None:
        self._start = time.monotonic()

    def waiting(self, items: Iterable[Any]) -> Iterator[Any]:
        """Pass items on and count the time that they take to come."""
        iterator = iter(items)
        while True:
            before = time.monotonic()
            item = next(iterator, None)
            self.wait += time.monotonic() - before
            if item is None:
                return
            yield item

    def stop(self, videos: int) -> None:
        """Note how long so many videos took."""
        self.seconds, self.videos = time.monotonic() - self._start, videos


class TestRun:
    """A test, ready to run: the model, the videos, and all that the scores depend on."""

    __test__ = False  # pytest: this is no test

    def __init__(self, config: Config, model: ModelConfig, device: torch.device):
        """Load everything.

        Raises:
            V4DError: no checkpoint, other classes than the data set's, no usable videos, or a crop that the
                network does not take.
        """
        self.config, self.model, self.device = config, model, device
        testing = config.testing
        self.classes = index.class_names(config)
        """Names by class index."""
        self.finished = load_finished(checkpoint_path(config, model), model.final, self.classes)
        """The tested network and what its file says."""
        check_crop(self.finished.model, testing.crop_size, "testing.crop_size")
        self.finished.model.to(device)
        self.bf16 = configuration.takes_bf16(testing.precision, device.type)
        """Whether to compute in bf16; else in float32."""
        self.videos = index.records(config, testing.split)
        """All that are tested, over all ranks."""
        self.units = max(testing.units, self.finished.units)
        """Units of a test video: at least those that the model was trained with."""
        self.folder = config.paths.test(model.name)
        """Where the results go."""
        self.predictions = config.paths.predictions(model.name)
        """The file of the predictions."""
        wanted = min(LARGEST_PIECE, max(1, len(self.videos) // PIECES))
        self.piece_size = testing.batch_size * max(1, round(wanted / testing.batch_size))
        """Videos in a piece: whole batches, whatever the number of ranks."""
        count = -(-len(self.videos) // self.piece_size)
        self.piece_files = [self.folder / "pieces" / f"{number:06d}.parquet" for number in range(count)]
        """The pieces' predictions, in the order of the videos."""

    def rank_file(self, rank: int) -> Path:
        """Where a rank leaves its `Clock` when it has done its share."""
        return self.folder / "pieces" / f"rank_{rank}.json"

    def begin(self) -> None:
        """Keep the pieces of an earlier attempt at this very test; clear away those of another."""
        pieces = self.folder / "pieces"
        plan, plan_file = self.plan(), pieces / "plan.json"
        if pieces.exists() and not (plan_file.exists() and read_json(plan_file) == plan):
            shutil.rmtree(pieces)
        write_json(plan_file, plan)
        for stale in pieces.glob("rank_*.json"):
            stale.unlink()
        done = sum(file.exists() for file in self.piece_files)
        if done:
            print(f"test: goes on; {done} of {len(self.piece_files)} pieces are done", file=sys.stderr)

    def plan(self) -> dict[str, Any]:
        """What the predictions depend on: equal plans give equal pieces."""
        block = self.config.testing
        testing = configuration.settings(configuration.plain(block), TestingConfig)
        del testing["precision"]  # `bf16` below replaces it
        testing["batch_size"] = block.batch_size  # it decides the size of a piece
        decode_on = self.model.final.training.decode_on
        gpu = configuration.decodes_on_gpu(decode_on, self.device.type)
        return ({"decode_on": decode_on} if gpu else {}) | {
            "format": FORMAT + self.bf16,
            "checkpoint_sha256": file_sha256(self.finished.path),
            "dataset_fingerprint": index.dataset_info(self.config)["fingerprint"],
            "videos_sha": configuration.sha([(v.video_id, v.class_index, v.num_frames) for v in self.videos]),
            "units": self.finished.units,  # a released checkpoint has the config's
            "frame_stride": self.finished.frame_stride,
            "bf16": self.bf16,
            "device": self.device.type,
            "seed": self.config.seed,
            "piece_size": self.piece_size,
            "testing": testing,
            # Pieces from when units of such a network were combined are not taken over.
            **({"clip_level": True} if self.finished.model.clip_level else {}),
        }

    def score(self, context: DistributedContext) -> None:
        """Score this rank's share of the pieces."""
        size = self.piece_size
        mine = {
            file: self.videos[number * size : (number + 1) * size]
            for number, file in enumerate(self.piece_files)
            if number % context.size == context.rank and not file.exists()
        }
        videos = [video for piece in mine.values() for video in piece]
        clock = Clock()
        title = f"test {self.config.run_name(self.model.name)}"
        lines = LogLines(title, len(videos), "videos") if context.is_main else None
        tables = self._tables(videos, clock)
        for file, piece in mine.items():
            done: list[pa.Table] = []
            while sum(table.num_rows for table in done) < len(piece):
                done.append(next(tables))
                if lines:
                    lines.update(done[-1].num_rows)
            write_table(file, pa.concat_tables(done))
        if lines:
            lines.close()
        clock.stop(len(videos))
        write_json(self.rank_file(context.rank), dataclasses.asdict(clock))

    def _tables(self, videos: list[VideoRecord], clock: Clock) -> Iterator[pa.Table]:
        """Predictions of batch after batch. A piece is whole batches, so that none is in two pieces."""
        testing = self.config.testing
        counts = unit_counts(self.finished.units, self.units) if testing.combinations else ()
        scorer = Scorer(self.finished.model, testing, self.bf16, unit_counts=counts, seed=self.config.seed)
        by_id = {video.video_id: video for video in videos}
        for batch in clock.waiting(prefetch(self._loader(videos), self.device)):
            scores, unit_scores = scorer(batch.frames, batch.video_id)
            clock.pixels = tuple(batch.frames.shape[4:6])
            clock.crops += len(batch) * batch.frames.shape[1]
            clock.normal += sum(scorer.seconds)
            scorer.seconds.clear()
            records = [by_id[video_id] for video_id in batch.video_id]
            yield predictions_table(records, self.classes, scores, unit_scores)

    def _loader(self, videos: list[VideoRecord]) -> Loader:
        testing = self.config.testing
        workers = testing.workers
        if workers is None:  # beside processes that fill a CPU with the network there is no room for any
            workers = 0 if self.device.type == "cpu" else default_workers(max(1, torch.cuda.device_count()))
        return eval_loader(
            videos,
            ClipSpec(self.units, self.finished.frames, self.finished.frame_stride),
            ViewSpec(testing.crop_size, testing.crops, testing.short_side, testing.sampling),
            batch_size=testing.batch_size,
            workers=workers,
            decode_on=self.model.final.training.decode_on,
        )
