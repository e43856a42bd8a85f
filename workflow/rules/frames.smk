# Clips decoded once into shards of JPEG frames, and the account of every video.


rule frames:
    input:
        clips=DATA.clips("{split}", "{part}"),
        ledger=DATA.clips_ledger("{split}", "{part}"),
    output:
        shard=DATA.shard("{split}", "{part}"),
        ledger=DATA.frames_ledger("{split}", "{part}"),
    log:
        f"{LOGS}/frames/{{split}}/{{part}}.log",
    benchmark:
        DATA.benchmark("frames", "{split}", "{part}")
    priority: 2
    conda:
        ENVIRONMENT
    threads: SOURCE.part_threads(CORES)
    params:
        config=RESOLVED,
        frames=v4d_workflow.block_settings(CONFIG, "frames"),
    shell:
        "v4d frames --config {params.config:q} --split {wildcards.split} --part {wildcards.part}"
        " --threads {threads} 2>&1 | tee {log:q}"


rule manifest:
    input:
        annotations=rules.classes.input,
        classes=rules.classes.output,
        shards=[DATA.shard(*place) for place in EVERY_PART],
        ledgers=[DATA.frames_ledger(*place) for place in EVERY_PART],
    output:
        manifest=DATA.manifest,
        info=DATA.info,
        missing=DATA.missing,
        quarantine=DATA.quarantine,
    log:
        f"{LOGS}/manifest.log",
    benchmark:
        DATA.benchmark("manifest")
    conda:
        ENVIRONMENT
    params:
        config=RESOLVED,
        bad=lookup(dpath="dataset/max_bad_share", within=config),
    shell:
        "v4d manifest --config {params.config:q} 2>&1 | tee {log:q}"
