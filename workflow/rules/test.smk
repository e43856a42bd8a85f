# The test of a model: Algorithm 1 over many units, three crops, several temporal orders.


rule test:
    input:
        weights=lambda wildcards: tested_weights(wildcards.model),
        manifest=DATA.manifest,
        info=DATA.info,
        tracking=RESULTS.tracking,
    output:
        predictions=RESULTS.predictions("{model}"),
        metrics=RESULTS.test_metrics("{model}"),
        per_class=RESULTS.test("{model}") / "per_class.csv",
        confusion=report(
            RESULTS.test("{model}") / "confusion.png",
            caption="../report/confusion.rst",
            category="Test",
            labels={"model": "{model}", "figure": "confusion matrix"},
        ),
        classes=report(
            RESULTS.test("{model}") / "per_class.png",
            caption="../report/per_class.rst",
            category="Test",
            labels={"model": "{model}", "figure": "accuracy by class"},
        ),
        reliability=report(
            RESULTS.test("{model}") / "reliability.png",
            caption="../report/reliability.rst",
            category="Test",
            labels={"model": "{model}", "figure": "calibration"},
        ),
        temporal_order=report(
            RESULTS.test("{model}") / "temporal_order.png",
            caption="../report/temporal_order.rst",
            category="Test",
            labels={"model": "{model}", "figure": "temporal order"},
        ),
    log:
        f"{LOGS}/test/{{model}}.log",
    benchmark:
        RESULTS.benchmark("test", "{model}")
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
        testing=lambda wildcards: v4d_workflow.testing_settings(CONFIG, wildcards.model),
    shell:
        "v4d test --config {params.config:q} --model {wildcards.model} --gpus {resources.gpu}"
        " 2>&1 | tee {log:q}"
