# What should exist: a row a video, a table a split; and the classes.


rule annotations:
    output:
        f"{DATA}/annotations/{{split}}.parquet",
    log:
        f"{LOGS}/annotations/{{split}}.log",
    benchmark:
        f"{DATA}/benchmarks/annotations/{{split}}.tsv"
    conda:
        ENVIRONMENT
    params:
        config=RESOLVED,
        dataset=v4d_workflow.annotation_settings(CONFIG),
        state=SOURCE_STATE,
    shell:
        "v4d annotations --config {params.config:q} --only {wildcards.split} 2>&1 | tee {log:q}"


rule classes:
    input:
        expand("{data}/annotations/{split}.parquet", data=DATA, split=list(PARTS)),
    output:
        f"{DATA}/annotations/classes.json",
    log:
        f"{LOGS}/annotations/classes.log",
    benchmark:
        f"{DATA}/benchmarks/annotations/classes.tsv"
    conda:
        ENVIRONMENT
    params:
        config=RESOLVED,
    shell:
        "v4d annotations --config {params.config:q} --only classes 2>&1 | tee {log:q}"
