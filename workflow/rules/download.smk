# Archives of videos: downloaded, or rendered for the synthetic set. A user's folder has none.


rule archive:
    output:
        v4d_workflow.temporary_unless(
            v4d_workflow.keeps_archives(CONFIG),
            f"{DATA}/archives/{{split}}/{{part}}.tar.gz",
            temp,
        ),
    log:
        f"{LOGS}/archive/{{split}}/{{part}}.log",
    benchmark:
        f"{DATA}/benchmarks/archive/{{split}}/{{part}}.tsv"
    wildcard_constraints:
        part=r"part_\d+",
    retries: 2 if CONFIG.dataset.source == "kinetics" else 0
    conda:
        ENVIRONMENT
    threads: CORES if CONFIG.dataset.source == "synthetic" else 1
    resources:
        downloads=1 if CONFIG.dataset.source == "kinetics" else 0,
    params:
        config=RESOLVED,
        source=v4d_workflow.archive_settings(CONFIG),
        part=v4d_workflow.part_settings(CONFIG),
    shell:
        "v4d download --config {params.config:q} --split {wildcards.split} --part {wildcards.part}"
        " 2>&1 | tee {log:q}"


# What no archive of a split holds, where dataset.kinetics.youtube is on. No retries: who was refused waits.
rule youtube:
    input:
        annotations=f"{DATA}/annotations/{{split}}.parquet",
        ledgers=v4d_workflow.archive_ledgers(CONFIG),
    output:
        v4d_workflow.temporary_unless(
            v4d_workflow.keeps_archives(CONFIG),
            f"{DATA}/archives/{{split}}/youtube.tar.gz",
            temp,
        ),
    log:
        f"{LOGS}/archive/{{split}}/youtube.log",
    benchmark:
        f"{DATA}/benchmarks/archive/{{split}}/youtube.tsv"
    retries: 0
    conda:
        ENVIRONMENT
    resources:
        youtube=1,
    params:
        config=RESOLVED,
        part=v4d_workflow.part_settings(CONFIG),
    shell:
        "v4d download --config {params.config:q} --split {wildcards.split} --part youtube"
        " 2>&1 | tee {log:q}"
