"""The test stage: a finished model on every usable video of a split, over all context.

    results/<name>/<model>/test/predictions.parquet   a row a video (v4d.evaluation.predictions)
    results/<name>/<model>/test/metrics.json ...      what follows from it (v4d.evaluation.results)

How the videos are shared and a killed test goes on: v4d.evaluation.pieces.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from v4d import config as configuration
from v4d.checkpoints import checkpoint_path, load_finished
from v4d.config import Config, ModelConfig
from v4d.data import index
from v4d.data.account import check_dataset
from v4d.distributed.group import DistributedContext, broadcast_object, exit_code_of, process_group
from v4d.distributed.launcher import launch
from v4d.errors import V4DError
from v4d.evaluation.pieces import Clock, TestRun
from v4d.evaluation.predictions import merge
from v4d.evaluation.results import headline, log, run_facts, summarise
from v4d.tracking import open_tracker
from v4d.utils.files import exclusive, read_json

POLL_SECONDS = 0.2


def start(config: Config, model: ModelConfig, *, config_file: str, processes: int) -> int:
    """Refuse what cannot be tested, then test it, in so many processes. They read `config_file`.

    Returns:
        The exit code.

    Raises:
        V4DError: a damaged data set, no checkpoint, other classes than the data set's, no videos.
    """
    path = checkpoint_path(config, model)
    check_dataset(config, {config.testing.split})
    load_finished(path, model.final, index.class_names(config))
    index.records(config, config.testing.split)
    words = ["--config", config_file, "--model", config.run_name(model.name)]
    return launch("v4d.evaluation.stage", words, processes)


def main(argv: list[str] | None = None) -> int:
    """What every process of a test runs."""
    parser = argparse.ArgumentParser(prog="python -m v4d.evaluation.stage")
    parser.add_argument("--config", required=True)
    parser.add_argument("--model", required=True)
    args = parser.parse_args(argv)
    try:
        config, model = configuration.load(args.config).run(args.model)
        with process_group() as context:
            run = TestRun(config, model, context.device)
            with locked_test_folder(run, context):
                run.score(context)
                if context.is_main:
                    finish(run, context)
    except V4DError as error:
        return exit_code_of(error, "v4d test")
    return 0


@contextmanager
def locked_test_folder(run: TestRun, context: DistributedContext) -> Iterator[None]:
    """Hold the test's folder, which rank 0 makes ready; every rank raises what keeps it from that.

    Raises:
        V4DError: the folder cannot be written.
    """
    with ExitStack() as stack:
        problem = ""
        if context.is_main:
            try:  # a process of a killed workflow may still hold the folder
                stack.enter_context(exclusive(run.predictions))
                run.begin()
            except V4DError as error:
                problem = str(error)
        problem = broadcast_object(context, problem)
        if problem:
            raise V4DError(problem)
        yield


def finish(run: TestRun, context: DistributedContext) -> None:
    """Wait for the other ranks, join the pieces, write and log what follows from them.

    The wait is no collective, which would time out on ranks that still work; a rank that dies takes
    this one with it.
    """
    files = [run.rank_file(rank) for rank in range(context.size)]
    while not all(file.exists() for file in files):
        time.sleep(POLL_SECONDS)
    clocks = [Clock(**read_json(file)) for file in files]
    count = merge(run.piece_files, run.predictions)
    if count != len(run.videos):
        raise V4DError(f"{run.predictions}: {count} videos scored, the manifest has {len(run.videos)}")
    name = run.config.run_name(run.model.name)
    with open_tracker(run.config, name, stage="test") as tracker:
        facts = run_facts(run, clocks, context) | {"mlflow_run_id": tracker.run_id}
        result = summarise(run.folder, run.classes, facts, seed=run.config.seed)
        log(tracker, run, result)
        tracker.close("FINISHED")
    shutil.rmtree(run.folder / "pieces")
    where = run.config.paths.test_metrics(run.model.name)
    print(f"{name}: {headline(result)}; {where}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
