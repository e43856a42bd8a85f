# What should exist: a row a video, a table a split; and the classes.


rule annotations:
    output:
        DATA.annotations("{split}"),
    log:
        f"{LOGS}/annotations/{{split}}.log",
    benchmark:
        DATA.benchmark("annotations", "{split}")
    conda:
        ENVIRONMENT
    params:
        config=RESOLVED,
        dataset=SOURCE.annotation_settings(),
        state=SOURCE_STATE,
    shell:
        "v4d annotations --config {params.config:q} --only {wildcards.split} 2>&1 | tee {log:q}"


rule classes:
    input:
        [DATA.annotations(split) for split in PARTS],
    output:
        DATA.classes,
    log:
        f"{LOGS}/annotations/classes.log",
    benchmark:
        DATA.benchmark("annotations", "classes")
    conda:
        ENVIRONMENT
    params:
        config=RESOLVED,
    shell:
        "v4d annotations --config {params.config:q} --only classes 2>&1 | tee {log:q}"
