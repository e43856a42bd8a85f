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
    retries: 2 if CONFIG.dataset.source == "kinetics" else 0
    conda:
        ENVIRONMENT
    threads: CORES if CONFIG.dataset.source == "synthetic" else 1
    resources:
        downloads=1 if CONFIG.dataset.source == "kinetics" else 0,
    params:
        config=RESOLVED,
        source=v4d_workflow.archive_settings(CONFIG),
    shell:
        "v4d download --config {params.config:q} --split {wildcards.split} --part {wildcards.part}"
        " 2>&1 | tee {log:q}"
