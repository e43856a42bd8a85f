# All models of the config side by side, and everything on one page.


rule compare:
    input:
        tests=expand(
            "{results}/{model}/test/metrics.json",
            results=RESULTS,
            model=list(CONFIG.models),
        ),
    output:
        csv=f"{RESULTS}/comparison.csv",
        markdown=report(
            f"{RESULTS}/comparison.md",
            caption="../report/comparison.rst",
            category="Comparison",
        ),
    log:
        f"{LOGS}/compare.log",
    conda:
        ENVIRONMENT
    params:
        config=RESOLVED,
    shell:
        "v4d compare --config {params.config:q} 2>&1 | tee {log:q}"


rule report:
    input:
        comparison=rules.compare.output.csv,
        predictions=expand(
            "{results}/{model}/test/predictions.parquet",
            results=RESULTS,
            model=list(CONFIG.models),
        ),
        info=f"{DATA}/dataset.json",
    output:
        report(
            f"{RESULTS}/report.html", caption="../report/report.rst", category="Report"
        ),
    log:
        f"{LOGS}/report.log",
    conda:
        ENVIRONMENT
    params:
        config=RESOLVED,
    shell:
        "v4d report --config {params.config:q} 2>&1 | tee {log:q}"
