# Archives of videos, downloaded or made here; a user's folder has none.


rule archive:
    output:
        kept(SOURCE.keeps_archives, DATA.archive("{split}", "{part}")),
    log:
        f"{LOGS}/archive/{{split}}/{{part}}.log",
    benchmark:
        DATA.benchmark("archive", "{split}", "{part}")
    wildcard_constraints:
        part="|".join(v4d_workflow.archived_parts(SOURCE, PARTS, late=False)) or "none",
    retries: SOURCE.retries
    conda:
        ENVIRONMENT
    threads: SOURCE.download_threads(CORES)
    resources:
        downloads=SOURCE.downloads,
    params:
        config=RESOLVED,
        source=SOURCE.archive_settings(),
        part=lambda wildcards: SOURCE.content(**wildcards),
    shell:
        "v4d download --config {params.config:q} --split {wildcards.split} --part {wildcards.part}"
        " 2>&1 | tee {log:q}"


# Parts that can be brought when the clips of others are made: what no archive holds, from a second source.
# No retries: a source that refuses has to be left alone for hours.
rule late_archive:
    input:
        annotations=DATA.annotations("{split}"),
        ledgers=lambda wildcards: [
            DATA.clips_ledger(wildcards.split, part)
            for part in SOURCE.waits_for(**wildcards)
        ],
    output:
        kept(SOURCE.keeps_archives, DATA.archive("{split}", "{part}")),
    log:
        f"{LOGS}/archive/{{split}}/{{part}}.log",
    benchmark:
        DATA.benchmark("archive", "{split}", "{part}")
    wildcard_constraints:
        part="|".join(v4d_workflow.archived_parts(SOURCE, PARTS, late=True)) or "none",
    retries: 0
    conda:
        ENVIRONMENT
    resources:
        late_archives=1,
    params:
        config=RESOLVED,
        part=lambda wildcards: SOURCE.content(**wildcards),
    shell:
        "v4d download --config {params.config:q} --split {wildcards.split} --part {wildcards.part}"
        " 2>&1 | tee {log:q}"
