# What should exist: the classes, and a row a video.


rule annotations:
    output:
        classes=f"{DATA}/annotations/classes.json",
        tables=expand(
            "{data}/annotations/{split}.parquet", data=DATA, split=list(PARTS)
        ),
    log:
        f"{LOGS}/annotations.log",
    benchmark:
        f"{DATA}/benchmarks/annotations.tsv"
    conda:
        ENVIRONMENT
    params:
        config=RESOLVED,
        dataset=v4d_workflow.annotation_settings(CONFIG),
        state=SOURCE_STATE,
    shell:
        "v4d annotations --config {params.config:q} 2>&1 | tee {log:q}"
