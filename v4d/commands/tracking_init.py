"""Create the tracking database and the experiment, and log the data set's counts as the run `dataset`."""

import argparse
from pathlib import Path

from v4d import config
from v4d.data.index import dataset_info
from v4d.tracking import initialise, open_tracker
from v4d.utils.files import write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="config file")
    parser.add_argument("--out", required=True, type=Path, help="file to write when it is done")


def run(args: argparse.Namespace) -> None:
    settings = config.load(args.config)
    initialise(settings)
    info = dataset_info(settings)
    with open_tracker(
        settings, "dataset", state_file=settings.results / "dataset" / "mlflow_run.json"
    ) as tracker:
        tracker.set_tags(
            {"dataset_fingerprint": info["fingerprint"], "config_sha": config.config_sha(settings)}
        )
        tracker.log_params({"name": info["name"], "source": info["source"], "classes": info["classes"]})
        for split, counts in info["counts"].items():
            tracker.log_metrics({f"{split}/{status}": count for status, count in counts.items()}, step=0)
        tracker.log_dataset(info)
        for name in ("dataset.json", "missing.csv", "quarantine.csv"):
            tracker.log_artifact(settings.dataset.root / name)
        tracker.close("FINISHED")
    write_json(args.out, {"experiment": settings.tracking.experiment, "run_id": tracker.run_id})
