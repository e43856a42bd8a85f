# The config, checked and spelled out once, and what several rules share.

import sys
import time

from v4d import config as v4d_config
from v4d import workflow as v4d_workflow
from v4d.errors import V4DError

try:
    CONFIG = v4d_workflow.resolve_in_place(config, workflow)
    PARTS = v4d_workflow.parts(CONFIG)
    SOURCE_STATE = v4d_workflow.source_state(CONFIG)
except V4DError as error:
    # SystemExit, for one line: Snakemake's own errors come with the place in this file.
    sys.exit(f"error: {' '.join(str(error).split())}")

DATA = str(CONFIG.dataset.root)
RESULTS = str(CONFIG.results)
LOGS = f"logs/{CONFIG.name}"
RESOLVED = f"{RESULTS}/config.yaml"
ENVIRONMENT = workflow.source_path("../../envs/v4d.yaml")
STAGES = v4d_workflow.stage_settings(CONFIG)
CORES = v4d_workflow.cores(workflow)
STARTED = time.time()

# The code is this checkout's; the interpreter is the one that runs Snakemake, or the conda environment's.
shell.prefix(v4d_workflow.shell_prefix(workflow.basedir))


wildcard_constraints:
    split="|".join(CONFIG.dataset.splits),
    part=r"part_\d+|youtube",
    model="|".join(CONFIG.models) or "none",
    stage="|".join(sorted({s for stages in STAGES.values() for s in stages})) or "none",


onstart:
    v4d_config.write_resolved(CONFIG)


onsuccess:
    print(v4d_workflow.summary_text(CONFIG))


onerror:
    print("\n".join(v4d_workflow.failures(CONFIG, STARTED)), file=sys.stderr)


def part_files(folder, suffix):
    """The files of all parts of all splits below data/<dataset>/<folder>."""
    return [
        f"{DATA}/{folder}/{split}/{part}{suffix}"
        for split in PARTS
        for part in PARTS[split]
    ]


def final_targets():
    """What `all` makes: the comparison and the report, or the data set where no model is named."""
    if not CONFIG.models:
        return [f"{DATA}/dataset.json"]
    return [
        f"{RESULTS}/comparison.csv",
        f"{RESULTS}/comparison.md",
        f"{RESULTS}/report.html",
    ]


def weights_before(wildcards):
    """The file that a stage starts from: the stage before it, one that the config names, or none."""
    stages = list(STAGES[wildcards.model])
    init = STAGES[wildcards.model][wildcards.stage]["init"]
    if init in ("imagenet", "scratch"):
        return []
    if init != "previous":
        return init
    before = stages[stages.index(wildcards.stage) - 1]
    return f"{RESULTS}/{wildcards.model}/{before}/final.pt"


def tested_weights(name):
    """A model's weights that are tested: those of the last stage, or a file that the config names."""
    model = CONFIG.models[name]
    return model.checkpoint or f"{RESULTS}/{name}/{model.final.name}/final.pt"
