# The config, checked and spelled out once, and what several rules share.

import sys
import time

try:
    from v4d import config as v4d_config
    from v4d import workflow as v4d_workflow
    from v4d.datasets import open_source
    from v4d.errors import V4DError
    from v4d.utils.text import one_line

    CONFIG = v4d_workflow.resolve_in_place(config, workflow)
    SOURCE = open_source(CONFIG.dataset)
    PARTS = {split: SOURCE.parts(split) for split in CONFIG.dataset.splits}
    SOURCE_STATE = SOURCE.state()
except KeyboardInterrupt:  # Ctrl-C
    sys.exit(130)
except V4DError as error:
    # SystemExit, for one line: Snakemake's own errors come with the place in this file.
    sys.exit(f"error: {one_line(error)}")

DATA = CONFIG.dataset.paths
RESULTS = CONFIG.paths
LOGS = f"logs/{CONFIG.name}"
RESOLVED = str(RESULTS.config)
EVERY_PART = [(split, part) for split in PARTS for part in PARTS[split]]
ENVIRONMENT = workflow.source_path("../../envs/v4d.yaml")
RUNS = CONFIG.every_run  # a model, or model/seed_<seed>
STAGES = v4d_workflow.stage_settings(CONFIG)
CORES = v4d_workflow.cores(workflow)
STARTED = time.time()

# The code is this checkout's; the interpreter is the one that runs Snakemake, or the conda environment's.
shell.prefix(v4d_workflow.shell_prefix(workflow.basedir))


wildcard_constraints:
    split="|".join(CONFIG.dataset.splits),
    part=r"[A-Za-z0-9][A-Za-z0-9_-]*",
    model="|".join(RUNS) or "none",
    stage="|".join(sorted({s for stages in STAGES.values() for s in stages})) or "none",


onstart:
    v4d_config.write_resolved(CONFIG)


onsuccess:
    print(v4d_workflow.summary_text(CONFIG))


onerror:
    print("\n".join(v4d_workflow.failures(CONFIG, STARTED)), file=sys.stderr)


def kept(keep, path):
    """An output that Snakemake deletes when nothing needs it any more, unless it is to be kept."""
    return path if keep else temp(path)


def final_targets():
    """What `all` makes: the comparison and the report, or the data set where no model is named."""
    if not CONFIG.models:
        return [DATA.info]
    asked = v4d_workflow.optional_tables(CONFIG).values()
    return [RESULTS.comparison, RESULTS.comparison_text, *asked, RESULTS.report]


def weights_before(wildcards):
    """The file that a stage starts from: the stage before it, one that the config names, or none."""
    stages = list(STAGES[wildcards.model])
    init = STAGES[wildcards.model][wildcards.stage]["init"]
    if init in ("imagenet", "scratch"):
        return []
    if init != "previous":
        return init
    before = stages[stages.index(wildcards.stage) - 1]
    return RESULTS.final_weights(wildcards.model, before)


def tested_weights(run):
    """The weights that are tested: those of the last stage, or a file that the config names."""
    _, model = CONFIG.run(run)
    return model.checkpoint or RESULTS.final_weights(run, model.final.name)
