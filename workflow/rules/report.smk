# All models of the config side by side, and everything on one page.


rule compare:
    input:
        tests=[RESULTS.test_metrics(run) for run in RUNS],
    output:
        **v4d_workflow.optional_tables(CONFIG),
        csv=report(
            RESULTS.comparison,
            caption="../report/comparison.rst",
            category="Comparison",
            labels={"table": "models"},
        ),
        published=report(
            RESULTS.published,
            caption="../report/published.rst",
            category="Comparison",
            labels={"table": "models and published results"},
        ),
        significance=report(
            RESULTS.significance,
            caption="../report/significance.rst",
            category="Comparison",
            labels={"table": "which differences are real"},
        ),
        markdown=RESULTS.comparison_text,
    log:
        f"{LOGS}/compare.log",
    conda:
        ENVIRONMENT
    params:
        **v4d_workflow.report_settings(CONFIG),
        config=RESOLVED,
    shell:
        "v4d compare --config {params.config:q} 2>&1 | tee {log:q}"


rule report:
    input:
        comparison=rules.compare.output.csv,
        predictions=[RESULTS.predictions(run) for run in RUNS],
        info=DATA.info,
    output:
        page=report(RESULTS.report, caption="../report/report.rst", category="Report"),
        plots=report(
            directory(RESULTS.plots),  # which there are depends on models and tests
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
        **v4d_workflow.report_settings(CONFIG),
        config=RESOLVED,
    shell:
        "v4d report --config {params.config:q} 2>&1 | tee {log:q}"
