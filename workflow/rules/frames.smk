# Clips decoded once into shards of JPEG frames, and the account of every video.


rule frames:
    input:
        clips=f"{DATA}/clips/{{split}}/{{part}}.tar",
        ledger=f"{DATA}/clips/{{split}}/{{part}}.parquet",
    output:
        shard=f"{DATA}/frames/{{split}}/{{part}}.lmdb",
        ledger=f"{DATA}/frames/{{split}}/{{part}}.parquet",
    log:
        f"{LOGS}/frames/{{split}}/{{part}}.log",
    benchmark:
        f"{DATA}/benchmarks/frames/{{split}}/{{part}}.tsv"
    priority: 2
    conda:
        ENVIRONMENT
    threads: v4d_workflow.part_threads(CONFIG, CORES)
    params:
        config=RESOLVED,
        frames=v4d_workflow.frames_settings(CONFIG),
    shell:
        "v4d frames --config {params.config:q} --split {wildcards.split} --part {wildcards.part}"
        " --threads {threads} 2>&1 | tee {log:q}"


rule manifest:
    input:
        annotations=rules.classes.input,
        classes=rules.classes.output,
        shards=part_files("frames", ".lmdb"),
        ledgers=part_files("frames", ".parquet"),
    output:
        manifest=f"{DATA}/manifest.parquet",
        info=f"{DATA}/dataset.json",
        missing=f"{DATA}/missing.csv",
        quarantine=f"{DATA}/quarantine.csv",
    log:
        f"{LOGS}/manifest.log",
    benchmark:
        f"{DATA}/benchmarks/manifest.tsv"
    conda:
        ENVIRONMENT
    params:
        config=RESOLVED,
        bad=lookup(dpath="dataset/max_bad_share", within=config),
    shell:
        "v4d manifest --config {params.config:q} 2>&1 | tee {log:q}"
