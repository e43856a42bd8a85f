"""The test stage: a finished model on every usable video of a split, over all ranks.

    results/<name>/<model>/test/predictions.parquet   a row a video (v4d.evaluation.predictions)
    results/<name>/<model>/test/metrics.json ...      what follows from it (v4d.evaluation.results)

How the videos are shared and a killed test goes on: v4d.evaluation.pieces.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from v4d import config as configuration
from v4d.checkpoints import checkpoint_path, load_finished
from v4d.config import Config
from v4d.data import index
from v4d.datasets import open_source
from v4d.distributed.group import DistributedContext, broadcast_object, process_group, wait_for_main
from v4d.distributed.launcher import launch, processes_for
from v4d.errors import V4DError
from v4d.evaluation.pieces import Clock, TestRun
from v4d.evaluation.predictions import merge
from v4d.evaluation.results import summarise
from v4d.models import gmac, parameter_count
from v4d.tracking import Tracker, open_tracker
from v4d.utils.files import exclusive, read_json, write_text
from v4d.utils.provenance import git_sha, hardware

POLL_SECONDS = 0.2
TABLE = "predictions.json"
"""The predictions once more, as the table that MLflow's page shows."""
DESCRIBING = ("arch", "preset", "units", "frames", "kernel", "blocks")
"""What of an architecture is a tag, and so a column when MLflow compares runs."""


def start(config_file: str, model_name: str, *, nproc: int | None = None, gpus: int | None = None) -> int:
    """Refuse what cannot be tested, then test it: a process a GPU, or as many as asked for on a CPU.

    Returns:
        The exit code.

    Raises:
        V4DError: no checkpoint, other classes than the data set's, no videos, more processes than GPUs.
    """
    config = configuration.load(config_file)
    model = config.model(model_name)
    path = checkpoint_path(config, model)
    load_finished(path, model.final, index.class_names(config))
    index.records(config, config.testing.split)
    if nproc is not None and nproc < 1:
        raise V4DError(f"--nproc {nproc}: at least one process is needed")
    training = model.final.training
    processes = processes_for(nproc, gpus or training.gpus, training.processes)
    return launch("v4d.evaluation.stage", ["--config", config_file, "--model", model_name], processes)


def main(argv: list[str] | None = None) -> int:
    """What every process of a test runs."""
    parser = argparse.ArgumentParser(prog="python -m v4d.evaluation.stage")
    parser.add_argument("--config", required=True)
    parser.add_argument("--model", required=True)
    args = parser.parse_args(argv)
    try:
        config = configuration.load(args.config)
        with process_group() as ranks:
            work = TestRun.prepare(config, config.model(args.model), ranks.device)
            with locked_test_folder(work, ranks):
                work.run(ranks)
                if ranks.is_main:
                    finish(work, ranks)
    except V4DError as error:
        if "RANK" in os.environ and os.environ["RANK"] != "0":
            wait_for_main()
        print(f"v4d test: error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        return 1
    return 0


@contextmanager
def locked_test_folder(work: TestRun, ranks: DistributedContext) -> Iterator[None]:
    """Hold the test's folder, made ready by rank 0; what keeps it from that, all ranks raise.

    Raises:
        V4DError: the folder cannot be written.
    """
    with ExitStack() as stack:
        problem = ""
        if ranks.is_main:
            try:  # an orphan of a killed workflow may still be at it
                stack.enter_context(exclusive(work.predictions))
                work.begin()
            except V4DError as error:
                problem = str(error)
        problem = broadcast_object(ranks, problem)
        if problem:
            raise V4DError(problem)
        yield


def finish(work: TestRun, ranks: DistributedContext) -> dict[str, Any]:
    """Wait for the other ranks, join the pieces, write and log what follows from them.

    The wait is no collective, which would time out on ranks that still work; a rank that dies takes
    this one with it.
    """
    files = [work.rank_file(rank) for rank in range(ranks.size)]
    while not all(file.exists() for file in files):
        time.sleep(POLL_SECONDS)
    clocks = [Clock(**read_json(file)) for file in files]
    count = merge(work.piece_files, work.predictions)
    if count != len(work.videos):
        raise V4DError(f"{work.predictions}: {count} videos scored, the manifest has {len(work.videos)}")
    with open_test_tracker(work.config, work.model.name) as tracker:
        facts = model_facts(work) | run_facts(clocks, ranks) | {"mlflow_run_id": tracker.run_id}
        result = summarise(work.folder, work.classes, facts, seed=work.config.seed)
        log(tracker, work, result)
        tracker.close("FINISHED")
    shutil.rmtree(work.folder / "pieces")
    print(f"{work.model.name}: {headline(result)}; {work.folder / 'metrics.json'}", flush=True)
    return result


def headline(result: dict[str, Any]) -> str:
    """A test in one line."""
    orders = ", ".join(
        f"{order.replace('_', ' ')} {accuracies['top1']:.2f} %"
        for order, accuracies in result["orders"].items()
        if order != "normal"
    )
    line = f"top-1 {result['top1']:.2f} %, top-5 {result['top5']:.2f} % on {result['videos']} videos"
    return f"{line} ({orders})" if orders else line


def model_facts(work: TestRun) -> dict[str, Any]:
    """The model and the protocol, for metrics.json."""
    network, testing = work.finished.model, work.config.testing
    side = work.model.final.training.crop.size
    info = index.dataset_info(work.config)
    return {
        "model": work.model.name,
        **{key: plain(network.spec[key]) for key in DESCRIBING},
        "frame_stride": work.finished.frame_stride,
        "parameters": parameter_count(network),
        "gmac": round(gmac(network, work.finished.units, work.finished.frames, side, side), 4),
        "test_units": work.units,
        "crops": testing.crops,
        "crop_size": testing.crop_size,
        "combinations": testing.combinations,
        "precision": "bf16" if work.bf16 else "float32",
        "split": testing.split,
        "dataset": info["name"],
        "dataset_fingerprint": info["fingerprint"],
        "checkpoint": str(work.finished.path),
    }


def plain(value: Any) -> Any:
    """Tuples as lists, as JSON has them: then a tag reads the same whoever sets it."""
    return list(value) if isinstance(value, tuple) else value


def run_facts(clocks: list[Clock], ranks: DistributedContext) -> dict[str, Any]:
    """Speed of this attempt (pieces done before do not count), and where it ran."""
    seconds = max(clock.seconds for clock in clocks)
    return {
        "seconds": round(seconds, 3),
        "videos_per_second": sum(clock.videos for clock in clocks) / max(seconds, 1e-9),
        "data_wait_fraction": sum(c.wait for c in clocks) / max(sum(c.seconds for c in clocks), 1e-9),
        "processes": ranks.size,
        "hardware": hardware(),
        "git_sha": git_sha(),
    }


def open_test_tracker(config: Config, model_name: str) -> Tracker:
    """The run that training opened, or a new one for a model that was not trained here."""
    state_file = config.results / model_name / "mlflow_run.json"
    return open_tracker(config, model_name, state_file=state_file, stage="test")


def log(tracker: Tracker, work: TestRun, result: dict[str, Any]) -> None:
    """Everything of a test to its model's run."""
    source = open_source(work.config.dataset)
    tracker.set_tags(
        {key: result[key] for key in DESCRIBING}
        | {
            "dataset": result["dataset"],
            "dataset_fingerprint": result["dataset_fingerprint"],
            "config_sha": configuration.config_sha(work.config),
            "git_sha": result["git_sha"],
            "parameters": result["parameters"],
            "gmac": result["gmac"],
            "tested_units": result["test_units"],
            "tested_split": result["split"],
            "published_dataset": source.published_name(result["classes"], result["split"]) or "",
        }
    )
    metrics = {
        "test/top1": result["top1"],
        "test/top5": result["top5"],
        "test/mean_class": result["mean_class"],
        "test/calibration_error": result["calibration_error"],
        "test/videos": result["videos"],
        "test/videos_per_second": result["videos_per_second"],
        "test/data_wait_fraction": result["data_wait_fraction"],
    }
    for end, value in zip(("low", "high"), result["top1_interval"], strict=True):
        metrics[f"test/top1_interval_{end}"] = value
    for order, accuracies in result["orders"].items():
        if order != "normal":
            metrics[f"test/top1_{order}"] = accuracies["top1"]
    epochs = sum(stage.training.epochs for stage in work.model.stages) if not work.model.checkpoint else 0
    tracker.log_metrics(metrics, step=epochs)
    # Not as `log_table` does it: MLflow would add the rows to those of an earlier test.
    write_text(work.folder / TABLE, prediction_rows(work).to_json(orient="split", index=False))
    tracker.set_tags({"mlflow.loggedArtifacts": json.dumps([{"path": f"test/{TABLE}", "type": "table"}])})
    for path in sorted(work.folder.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            tracker.log_artifact(path, "test")


def prediction_rows(work: TestRun) -> pd.DataFrame:
    """The predictions without all the probabilities, small enough for a table in a browser."""
    names = pq.read_schema(work.predictions).names
    columns = [name for name in names if not name.startswith("probabilities")]
    return pq.read_table(work.predictions, columns=columns).to_pandas()


if __name__ == "__main__":
    sys.exit(main())
