# From videos to a trained and tested V4D. `snakemake --cores all` runs the demo, config/config.yaml; another
# config: `snakemake --cores all --configfile config/kinetics400.yaml --resources gpu=8`.


include: "workflow/rules/common.smk"
include: "workflow/rules/annotations.smk"
include: "workflow/rules/download.smk"
include: "workflow/rules/clips.smk"
include: "workflow/rules/frames.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/test.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        final_targets(),
    localrule: True


rule trained:
    # `--until train` would stop at the first stage of each model: the later ones are `train` as well.
    input:
        [tested_weights(run) for run in RUNS],
    localrule: True
