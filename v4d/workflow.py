"""What the Snakefile needs to know, so that the rules stay short."""

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import yaml

from v4d import config as configs
from v4d.config import Config, check_mixup, check_share, notes, preparation_settings
from v4d.datasets import DataSource
from v4d.errors import V4DError
from v4d.utils.files import read_json

REMAKE = "V4D_REMAKE"
"""Environment variable: 1 lets clips and frames of other settings be made anew."""


def resolve_in_place(document: dict[str, Any], workflow: Any) -> Config:
    """Put the config of a run into Snakemake's own mapping, whole and checked.

    Snakemake would join places of blocks of two files, and lay every config over the demo's; so the files are
    read here: those of `--configfile` in their order, or the demo where none is given, and `--config` on top.

    Raises:
        V4DError: one line that names the key or the folder.
    """
    given = workflow.config_settings
    files = given.configfiles or [Path(workflow.basedir) / "config/config.yaml"]
    resolved = configs.resolve(configs.merge(configs.read(*files), dict(given.config)))
    document.clear()
    document.update(resolved)
    config = configs.build(resolved)
    if workflow.exec_mode.name == "DEFAULT":  # not the Snakemake inside a job, which another has started
        check_results_folder(config)
        check_dataset_settings(config)
        offered = workflow.global_resources.get("gpu")
        for line in [*notes(config), *check_batches(config, getattr(offered, "value", offered))]:
            print(f"note: config: {line}", file=sys.stderr)
    return config


def check_batches(config: Config, offered: int | None = None) -> list[str]:
    """Refuse a training still to come whose batch spreads neither on a CPU nor on GPUs.

    One that has begun with a mixup of one video a pass goes on, as `Trainer` has it.

    Args:
        config: the config.
        offered: GPUs that `--resources gpu=N` offers to all jobs; a job gets no more.

    Returns:
        A line for each batch that spreads on the one only.

    Raises:
        V4DError: the first that spreads on neither.
    """
    lines = []
    for run in config.every_run:
        _, model = config.run(run)
        for stage in model.stages if model.checkpoint is None else ():
            if config.paths.final_weights(run, stage.name).exists():
                continue
            training, errors = stage.training, {}
            granted = min(training.gpus, offered or training.gpus)
            for device, processes in {"a CPU": training.processes, "GPUs": granted}.items():
                try:
                    check_share(training, processes)
                    if not config.paths.checkpoints(run, stage.name).exists():
                        check_mixup(training, processes)
                except V4DError as error:
                    errors[device] = str(error)
            if len(errors) > 1:
                why = "; on GPUs, ".join(dict.fromkeys(errors.values()))
                raise V4DError(f"config: models.{model.name}: {why}")
            lines += [
                f"models.{model.name}: on {device} refused: {why}"
                for device, why in errors.items()
                if device == "GPUs" or not offered
            ]
    return list(dict.fromkeys(lines))


def check_dataset_settings(config: Config) -> None:
    """Refuse clips or frames settings other than those that the finished data set was made with.

    A key that was mistyped, or whose default another version changes, would transcode for days.

    Raises:
        V4DError: the first key that differs, and how to go on.
    """
    info = config.dataset.paths.info
    if not info.exists() or os.environ.get(REMAKE, "0") != "0":
        return
    made_with = read_json(info).get("settings", {})
    for stage, now in preparation_settings(config).items():
        for key in {**now, **made_with.get(stage, {})}:
            then = made_with.get(stage, {}).get(key)
            if stage in made_with and now.get(key) != then:
                raise V4DError(
                    f"{config.dataset.root} was made with {stage}.{key} {then!r}, this config has "
                    f"{now.get(key)!r}: set it to {then!r}, give dataset.name another name, or make the "
                    f"data set anew with {REMAKE}=1"
                )


def check_results_folder(config: Config) -> None:
    """Two configs of one name must not write into one folder, nor two networks into that of one stage.

    Snakemake would delete the weights of such a stage before the training refuses to go on.

    Raises:
        V4DError: results/<name> was written for another data set, or a stage there for another network.
    """
    path = config.paths.config
    if not path.exists():
        return
    before = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    then, now = before.get("dataset", {}), config.document["dataset"]
    for key in ("name", "source"):
        if then.get(key) != now[key]:
            raise V4DError(
                f"{config.results} was written by another config: dataset.{key} was {then.get(key)!r}, "
                f"is now {now[key]!r}; change the key `name`, or move that folder away"
            )
    for name, model in config.models.items():
        stages = before.get("models", {}).get(name, {}).get("stages", ())
        made = {stage["name"]: stage["arch"] for stage in stages}
        for stage in () if model.checkpoint else model.stages:
            folder = config.paths.checkpoints(name, stage.name)
            if made.get(stage.name, stage.arch) != stage.arch and folder.exists():
                raise V4DError(
                    f"{folder} was written for {made[stage.name]}, the config's stage {stage.name!r} is now "
                    f"{stage.arch}: set it back (CHANGELOG.md has what changed in the configs), change the "
                    "key `name`, or move that folder away"
                )


def cores(workflow: Any) -> int:
    """Cores of this run; 1 where none are named, as by `snakemake --report` and for a cluster."""
    from snakemake.exceptions import WorkflowError

    try:
        return workflow.cores
    except WorkflowError:
        return 1


def share_of_cores(workflow: Any, gpus: int) -> int:
    """Threads of a job: all cores, or those that go with its GPUs where `--resources gpu=N` offers more.

    A job with all cores would be alone on the machine, and the other GPUs idle.
    """
    offered = workflow.global_resources.get("gpu")
    total = getattr(offered, "value", offered)
    return max(1, cores(workflow) * min(gpus, total) // total) if total else cores(workflow)


def archived_parts(source: DataSource, parts: dict[str, list[str]], *, late: bool) -> list[str]:
    """Of the parts by split, those with archives that wait for the clips of others (`late`), or do not."""
    places = [(split, part) for split in parts for part in parts[split]]
    fetched = [place for place in places if source.archive(*place) is not None]
    return sorted({part for split, part in fetched if bool(source.waits_for(split, part)) == late})


def stage_settings(config: Config) -> dict[str, dict[str, dict[str, Any]]]:
    """{run: {stage: settings}}: what a training depends on beside its seed, and nothing else."""
    return {
        run: {stage["name"]: configs.settings(stage, configs.stage_class(stage)) for stage in model["stages"]}
        for name, model in config.document["models"].items()
        if model["checkpoint"] is None
        for run in config.runs(name)
    }


def optional_tables(config: Config) -> dict[str, Path]:
    """Outputs of the comparison that only some configs have."""
    several = any(len(config.runs(model)) > 1 for model in config.models)
    return ({"seeds": config.paths.comparison_seeds} if several else {}) | (
        {"tables": config.paths.comparison_tables} if config.tables else {}
    )


def report_settings(config: Config) -> dict[str, Any]:
    """Params of comparison and report: what they are to show, where a config says so."""
    shown = {"published": config.dataset.published, "tables": configs.plain(config.tables)}
    return {key: value for key, value in shown.items() if value}


def shell_prefix(checkout: str) -> str:
    """Put this checkout and, behind a conda environment's own, this interpreter's tools on the paths."""
    tools = shlex.quote(str(Path(sys.executable).parent))
    path = f'"$PATH":{tools}' if os.environ.get("CONDA_PREFIX") else f'{tools}:"$PATH"'
    python_path = shlex.quote(":".join(filter(None, [checkout, os.environ.get("PYTHONPATH")])))
    prefix = f"set -euo pipefail; export PATH={path} PYTHONPATH={python_path}; "
    return prefix.replace("{", "{{").replace("}", "}}")  # Snakemake formats it


def summary_text(config: Config) -> str:
    """The last lines on the terminal: where the results are, and how to browse the runs."""
    if not config.models:
        return f"\nThe data set is ready: {config.dataset.paths.info}"
    text = config.paths.comparison_text
    lines = ["", text.read_text(encoding="utf-8").rstrip(), ""] if text.exists() else ["", ""]
    for what, path in (("table", config.paths.comparison), ("report", config.paths.report)):
        if path.exists():
            lines.append(f"{what:<8} {path}")
    if config.tracking.backend == "mlflow":
        lines.append(f"runs     mlflow ui --backend-store-uri {shlex.quote(config.tracking.uri)}")
    return "\n".join(lines)


def block_settings(config: Config, name: str) -> dict[str, Any]:
    """The keys of a block (`clips`, `frames`, `tracking`) on which results depend."""
    return configs.settings(config.document[name], type(getattr(config, name)))


def testing_settings(config: Config, run: str) -> dict[str, Any]:
    """The settings of a run's test on which its scores depend."""
    testing = config.run(run)[0].testing
    return configs.settings(configs.plain(testing), type(testing))


def failures(config: Config, since: float) -> list[str]:
    """A line for each job that has failed since a time (seconds since 1970): its log and its last error."""
    lines = []
    root = Path("logs") / config.name
    for log in sorted(root.rglob("*.log")):
        if log.stat().st_mtime >= since:
            errors = [line for line in log.read_text(errors="replace").splitlines() if ": error: " in line]
            if errors:
                job = log.relative_to(root).with_suffix("")
                lines.append(f"  {job}: {errors[-1].partition(': error: ')[2]}")
    return [f"\n{len(lines)} failed, and say why:", *lines] if lines else []


def gpus(config: Config, run: str, stage: str | None = None) -> int:
    """GPUs that a job asks for."""
    _, settings = config.run(run)
    return (settings.stage(stage) if stage else settings.final).training.gpus
