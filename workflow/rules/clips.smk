# Every video transcoded to the configured size; a bad one becomes a row with a reason.


rule clips:
    input:
        annotations=f"{DATA}/annotations/{{split}}.parquet",
        archive=branch(
            CONFIG.dataset.source == "folder",
            then=[],
            otherwise=f"{DATA}/archives/{{split}}/{{part}}.tar.gz",
        ),
    output:
        clips=v4d_workflow.temporary_unless(
            CONFIG.clips.keep, f"{DATA}/clips/{{split}}/{{part}}.tar", temp
        ),
        ledger=f"{DATA}/clips/{{split}}/{{part}}.parquet",
    log:
        f"{LOGS}/clips/{{split}}/{{part}}.log",
    benchmark:
        f"{DATA}/benchmarks/clips/{{split}}/{{part}}.tsv"
    conda:
        ENVIRONMENT
    threads: min(CORES, 16)
    params:
        config=RESOLVED,
        clips=lookup(dpath="clips", within=config),
        bad=lookup(dpath="dataset/max_bad_share", within=config),
        given_up=v4d_workflow.given_up(CONFIG),
    shell:
        "v4d clips --config {params.config:q} --split {wildcards.split} --part {wildcards.part}"
        " --threads {threads} 2>&1 | tee {log:q}"
