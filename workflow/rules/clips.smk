# Every video transcoded to the configured size; a bad one becomes a row with a reason.


rule clips:
    input:
        annotations=DATA.annotations("{split}"),
        archive=lambda wildcards: SOURCE.archive(**wildcards) or [],
    output:
        clips=kept(CONFIG.clips.keep, DATA.clips("{split}", "{part}")),
        ledger=DATA.clips_ledger("{split}", "{part}"),
    log:
        f"{LOGS}/clips/{{split}}/{{part}}.log",
    benchmark:
        DATA.benchmark("clips", "{split}", "{part}")
    priority: 1  # archives are to be used up, not piled up
    conda:
        ENVIRONMENT
    threads: SOURCE.part_threads(CORES)
    params:
        config=RESOLVED,
        clips=v4d_workflow.block_settings(CONFIG, "clips"),
        part=lambda wildcards: SOURCE.content(**wildcards),
    shell:
        "v4d clips --config {params.config:q} --split {wildcards.split} --part {wildcards.part}"
        " --threads {threads} 2>&1 | tee {log:q}"
