# All models of the config side by side, and everything on one page.


rule compare:
    input:
        tests=expand(
            "{results}/{model}/test/metrics.json",
            results=RESULTS,
            model=list(CONFIG.models),
        ),
    output:
        csv=report(
            f"{RESULTS}/comparison.csv",
            caption="../report/comparison.rst",
            category="Comparison",
            labels={"table": "models"},
        ),
        published=report(
            f"{RESULTS}/comparison_published.csv",
            caption="../report/published.rst",
            category="Comparison",
            labels={"table": "models and published results"},
        ),
        significance=report(
            f"{RESULTS}/significance.csv",
            caption="../report/significance.rst",
            category="Comparison",
            labels={"table": "which differences are real"},
        ),
        markdown=f"{RESULTS}/comparison.md",
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
        page=report(
            f"{RESULTS}/report.html", caption="../report/report.rst", category="Report"
        ),
        plots=report(
            directory(
                f"{RESULTS}/plots"
            ),  # which there are depends on models and tests
            patterns=["{figure}.svg"],
            caption="../report/plots.rst",
            category="Plots",
            labels={"figure": "{figure}"},
        ),
    log:
        f"{LOGS}/report.log",
    conda:
        ENVIRONMENT
    params:
        config=RESOLVED,
    shell:
        "v4d report --config {params.config:q} 2>&1 | tee {log:q}"
