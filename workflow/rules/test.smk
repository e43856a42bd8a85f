# The test of a model: Algorithm 1 over many units, three crops, several temporal orders.


rule test:
    input:
        weights=lambda wildcards: tested_weights(wildcards.model),
        manifest=f"{DATA}/manifest.parquet",
        info=f"{DATA}/dataset.json",
        tracking=f"{RESULTS}/tracking.json",
    output:
        predictions=f"{RESULTS}/{{model}}/test/predictions.parquet",
        metrics=f"{RESULTS}/{{model}}/test/metrics.json",
        per_class=f"{RESULTS}/{{model}}/test/per_class.csv",
        confusion=report(
            f"{RESULTS}/{{model}}/test/confusion.png",
            caption="../report/confusion.rst",
            category="Test",
            labels={"model": "{model}", "figure": "confusion matrix"},
        ),
        classes=report(
            f"{RESULTS}/{{model}}/test/per_class.png",
            caption="../report/per_class.rst",
            category="Test",
            labels={"model": "{model}", "figure": "accuracy by class"},
        ),
        reliability=report(
            f"{RESULTS}/{{model}}/test/reliability.png",
            caption="../report/reliability.rst",
            category="Test",
            labels={"model": "{model}", "figure": "calibration"},
        ),
        temporal_order=report(
            f"{RESULTS}/{{model}}/test/temporal_order.png",
            caption="../report/temporal_order.rst",
            category="Test",
            labels={"model": "{model}", "figure": "temporal order"},
        ),
    log:
        f"{LOGS}/test/{{model}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/test/{{model}}.tsv"
    conda:
        ENVIRONMENT
    threads:
        lambda wildcards: v4d_workflow.share_of_cores(
            workflow, v4d_workflow.gpus(CONFIG, wildcards.model)
        )
    resources:
        gpu=lambda wildcards: v4d_workflow.gpus(CONFIG, wildcards.model),
    params:
        config=RESOLVED,
        testing=v4d_workflow.testing_settings(CONFIG),
    shell:
        "v4d test --config {params.config:q} --model {wildcards.model} --gpus {resources.gpu}"
        " 2>&1 | tee {log:q}"
