"""The commands of what is around: this machine, and the tracking server."""

from argparse import Namespace
from pathlib import Path

from v4d.cli.command import CONFIG, argument, command, config_argument, load_config
from v4d.errors import V4DError


@command(config_argument("config files: check disk and tracking for these", nargs="+"))
def doctor(args: Namespace) -> None:
    """Check this machine: one line each, ok, warn or fail, with what to do.

    Example: v4d doctor --config config/config.yaml
    """
    from v4d.doctor import FAIL, examine

    failures = []
    for finding in examine(load_config(args) if args.config else None):
        print(finding, flush=True)
        if finding.state == FAIL:
            failures.append(finding)
    if failures:
        raise V4DError(f"{len(failures)} of these must be put right, first {failures[0].what}")


@command(CONFIG, argument("--out", required=True, type=Path, help="file to write when it is done"))
def tracking_init(args: Namespace) -> None:
    """Create the tracking database and the experiment, and log the data set's counts as the run `dataset`.

    Example: v4d tracking-init --config config/config.yaml --out results/demo/tracking.json
    """
    from v4d.tracking import initialise
    from v4d.tracking.dataset_run import log_dataset_run
    from v4d.utils.files import write_json

    config = load_config(args)
    initialise(config)
    run_id = log_dataset_run(config)
    write_json(args.out, {"experiment": config.tracking.experiment, "run_id": run_id})


@command(CONFIG)
def tracking_sync(args: Namespace) -> None:
    """Send what a tracking server missed while it did not answer.

    Example: v4d tracking-sync --config config/config.yaml
    """
    from v4d.tracking import sync

    sent = sync(load_config(args))
    print(f"sent: {', '.join(sent)}" if sent else "nothing was waiting")
