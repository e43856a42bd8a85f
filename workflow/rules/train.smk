# Training, a stage of a model a job. Checkpoints lie beside the outputs and are none: they outlive a kill.


rule tracking:
    # One early job makes database and experiment: several processes on a fresh database all fail.
    # Another address trains nothing anew (the checkpoints are there) and logs everything again. Not `ancient`
    # below: Snakemake 9.27 then takes a job whose output is missing for up to date when this one reruns.
    input:
        info=DATA.info,
    output:
        RESULTS.tracking,
    log:
        f"{LOGS}/tracking.log",
    conda:
        ENVIRONMENT
    params:
        config=RESOLVED,
        tracking=v4d_workflow.block_settings(CONFIG, "tracking"),
    shell:
        "v4d tracking-init --config {params.config:q} --out {output:q} 2>&1 | tee {log:q}"


rule train:
    input:
        manifest=DATA.manifest,
        info=DATA.info,
        tracking=RESULTS.tracking,
        before=weights_before,
    output:
        model=RESULTS.final_weights("{model}", "{stage}"),
        metrics=RESULTS.training_metrics("{model}", "{stage}"),
    log:
        f"{LOGS}/train/{{model}}/{{stage}}.log",
    benchmark:
        RESULTS.benchmark("train", "{model}", "{stage}")
    conda:
        ENVIRONMENT
    threads:
        lambda wildcards: v4d_workflow.share_of_cores(
            workflow, v4d_workflow.gpus(CONFIG, wildcards.model, wildcards.stage)
        )
    resources:
        gpu=lambda wildcards: v4d_workflow.gpus(
            CONFIG, wildcards.model, wildcards.stage
        ),
    params:
        config=RESOLVED,
        seed=lambda wildcards: CONFIG.run(wildcards.model)[0].seed,
        stage=lambda wildcards: STAGES[wildcards.model][wildcards.stage],
    shell:
        "v4d train --config {params.config:q} --model {wildcards.model} --stage {wildcards.stage}"
        " --gpus {resources.gpu} 2>&1 | tee {log:q}"
