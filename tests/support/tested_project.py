"""The hand-made data set of the tests of evaluation, tested with three models."""

import contextlib
import json
from pathlib import Path

from tests.support import made_by_hand as made
from v4d.evaluation import stage


def make(folder: Path) -> None:
    """Fill a folder with a config of three tested models, one of them "trained" in two stages."""
    with contextlib.chdir(folder):
        shape = {"arch": "v4d_tiny", "units": 2, "frames": 3, "frame_stride": 2}
        config = made.write_config(
            dataset={"synthetic": {"videos": {"val": 20}}},
            models={
                "colour": shape | {"checkpoint": "colour.pt"},
                "random": shape | {"checkpoint": "random.pt"},
                "staged": shape | {"stages": [{"name": "first"}, {"name": "last"}]},
            },
            testing={"orders": ["normal", "units_reversed", "frames_reversed"]},
        )
        videos = made.coloured_videos(10) + made.moving_videos(8)
        bad = {"lost-1": "missing", "lost-2": "corrupt"}
        made.write_data(config, videos, classes=made.NASTY_CLASSES, bad=bad)
        made.save(made.colour_model(), Path("colour.pt"), made.NASTY_CLASSES)
        made.save(made.random_model(Path("random.pt")), Path("random.pt"), made.NASTY_CLASSES)
        last = Path("results/hand/staged/last")
        made.save(made.random_model(last / "final.pt", seed=2), last / "final.pt", made.NASTY_CLASSES)
        for name, epochs in (("first", 3), ("last", 2)):
            write_training(Path("results/hand/staged") / name, epochs)
        for model in config.models:
            assert stage.main(["--config", "config.yaml", "--model", model]) == 0


def write_training(folder: Path, epochs: int) -> None:
    """metrics.json as training leaves it."""
    rows = [
        {
            "epoch": epoch,
            "train/loss": 2.0 / epoch,
            "train/top1": 20.0 * epoch,
            "train/lr": 0.1 / epoch,
            "val/loss": 2.2 / epoch,
            "val/top1": 18.0 * epoch,
            "val/top5": 100.0,
            "seconds": 5.0,
        }
        for epoch in range(1, epochs + 1)
    ]
    document = {"stage": folder.name, "epochs": rows, "seconds": 5.0 * epochs, "processes": 2}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(document | {"hardware": "2 x Some CPU"}))
