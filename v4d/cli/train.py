"""The commands of a model in a config: training a stage of it, and testing it."""

from argparse import Namespace
from typing import Any

from v4d.cli.command import CONFIG, argument, command, load_config, one_of

MODEL = argument(
    "--model", required=True, help="name of a model in the config; with /seed_N behind it, another seed's run"
)
PROCESSES = one_of(
    argument("--nproc", type=int, metavar="N", help="processes: one a GPU, or any number on a CPU"),
    argument("--gpus", type=int, metavar="N", help="GPUs that were granted; ignored on a CPU"),
)


@command(
    CONFIG,
    MODEL,
    argument("--stage", help="one of its stages (default: the only or last one)"),
    PROCESSES,
)
def train(args: Namespace) -> int:
    """Train one stage of a model: results/<name>/<model>/<stage>/{final.pt, metrics.json}.

    Goes on from the last checkpoint where there is one. SIGTERM or SIGUSR1 save the state and exit with 75.

    Example: v4d train --config config/config.yaml --model v4d
    """
    from v4d.training.start import start

    config, model = load_config(args).run(args.model)
    stage = model.stage(args.stage) if args.stage else model.final
    return start(config, model, stage, config_file=args.config, processes=_processes(args, stage.training))


@command(CONFIG, MODEL, PROCESSES)
def test(args: Namespace) -> int:
    """Test a model: Algorithm 1 over units and crops, in every temporal order of the config.

    Writes results/<name>/<model>/test/: predictions.parquet, metrics.json, tables and plots. A test that
    was killed goes on where it was.

    Example: v4d test --config config/config.yaml --model v4d
    """
    from v4d.evaluation.stage import start

    config, model = load_config(args).run(args.model)
    return start(config, model, config_file=args.config, processes=_processes(args, model.final.training))


def _processes(args: Namespace, training: Any) -> int:
    from v4d.distributed.launcher import processes_for

    return processes_for(args.nproc, args.gpus or training.gpus, training.processes)
