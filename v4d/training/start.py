"""How a training stage starts: the data and the weights that it needs are checked, then its processes run."""

import os
import sys
from pathlib import Path

import torch

from v4d.config import Config, ModelConfig, StageConfig, compiles
from v4d.data.account import check_dataset
from v4d.distributed.launcher import launch
from v4d.errors import V4DError
from v4d.training.init_weights import initial_weights
from v4d.utils.lifeline import lasting_folder


def start(config: Config, model: ModelConfig, stage: StageConfig, *, config_file: str, processes: int) -> int:
    """Train one stage of a model, in so many processes. They read `config_file`.

    Returns:
        The exit code.

    Raises:
        V4DError: a model that is only tested, no data set or a damaged one, no weights to start from.
    """
    if model.checkpoint is not None:
        raise V4DError(f"models.{model.name}.checkpoint is set: this model is tested, not trained")
    check_dataset(config, {stage.training.split, stage.training.val_split})
    source = initial_weights(config, model, stage)
    if isinstance(source, Path) and not source.exists():
        if stage.init == "previous":
            raise V4DError(f"no such checkpoint: {source}; train stage {source.parent.name!r} first")
        raise V4DError(f"models.{model.name}: init: no such file: {stage.init}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if compiles(stage.training.compile, device, steps=sys.maxsize):
        # The folder outlives the job, so that a later one need not compile again.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{lasting_folder()}/torchinductor_{os.getuid()}")
    words = ["--config", config_file, "--model", config.run_name(model.name), "--stage", stage.name]
    return launch("v4d.training.worker", words, processes)
