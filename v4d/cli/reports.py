"""The commands of results side by side: the comparison of models, and the HTML report."""

from argparse import Namespace
from pathlib import Path

from v4d.cli.command import CONFIG, argument, command, config_argument, load_config, one_of
from v4d.utils.addresses import keep_secrets


@command(
    one_of(
        config_argument("config file: compare all its models"),
        argument("--runs", nargs="+", metavar="RUN", help="MLflow run ids"),
        argument("--experiment", help="MLflow experiment: compare all its tested runs"),
        required=True,
    ),
    argument("--uri", default="sqlite:///mlflow.db", help="MLflow's address (default: %(default)s)"),
    argument("--out", type=Path, help="folder for the tables of MLflow runs (default: print only)"),
)
def compare(args: Namespace) -> None:
    """Put models side by side: all of a config (results/<name>/comparison.{csv,md}), or any MLflow runs.

    Published results stand beside ours only for the same data set. Models tested on the same videos are
    compared by McNemar's test.

    Example: v4d compare --config config/config.yaml
    """
    from v4d.report import comparison, mlflow_runs

    if args.config:
        config = load_config(args)
        table = comparison.compare(config)
        comparison.write(table, config.paths)
        print(comparison.markdown(table))
        return
    groups = mlflow_runs.compare_runs(keep_secrets(args.uri), run_ids=args.runs, experiment=args.experiment)
    if args.out:
        mlflow_runs.write(groups, args.out)
    print(mlflow_runs.text(groups))


@command(CONFIG)
def report(args: Namespace) -> None:
    """Write results/<name>/report.html: everything about a config in one file, and its plots beside it.

    Example: v4d report --config config/config.yaml
    """
    from v4d.report.page import log_report, write_report

    config = load_config(args)
    print(write_report(config))
    log_report(config)
