"""Train one stage of a model: results/<name>/<model>/<stage>/{final.pt, metrics.json}.

Goes on from the last checkpoint where there is one. SIGTERM or SIGUSR1 save the state and exit with 75.
"""

import argparse
import os
from pathlib import Path

from v4d import config
from v4d.errors import V4DError
from v4d.utils.lifeline import lasting_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="config file")
    parser.add_argument("--model", required=True, help="name of a model in the config")
    parser.add_argument("--stage", help="one of its stages (default: the only or last one)")
    count = parser.add_mutually_exclusive_group()
    count.add_argument("--nproc", type=int, metavar="N", help="processes: one a GPU, or any number on a CPU")
    count.add_argument("--gpus", type=int, metavar="N", help="GPUs that were granted; ignored on a CPU")


def run(args: argparse.Namespace) -> int:
    settings = config.load(args.config)
    model = settings.model(args.model)
    stage = model.stage(args.stage) if args.stage else model.final
    if args.nproc is not None and args.nproc < 1:
        raise V4DError(f"--nproc {args.nproc}: at least one process is needed")
    if model.checkpoint is not None:
        raise V4DError(f"models.{model.name}.checkpoint is set: this model is tested, not trained")
    _check_start(settings, model, stage)
    from v4d.distributed.launcher import launch, processes_for

    training = stage.training
    if training.compile:  # what was compiled once need not be again
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{lasting_folder()}/torchinductor_{os.getuid()}")
    processes = processes_for(args.nproc, args.gpus or training.gpus, training.processes)
    words = ["--config", args.config, "--model", model.name, "--stage", stage.name]
    return launch("v4d.training.worker", words, processes)


def _check_start(settings: config.Config, model: config.ModelConfig, stage: config.StageConfig) -> None:
    """What can be said before processes start: missing data, missing weights."""
    from v4d.data.index import dataset_info

    dataset_info(settings)
    if stage.init == "previous":
        before = model.stages[model.stages.index(stage) - 1].name
        needed = settings.results / model.name / before / "final.pt"
        if not needed.exists():
            raise V4DError(f"no such checkpoint: {needed}; train stage {before!r} first")
    elif stage.init not in ("imagenet", "scratch") and not Path(stage.init).exists():
        raise V4DError(f"models.{model.name}: init: no such file: {stage.init}")
