# The systems around the paper: a pack for every configuration, a study for every system, one page.

rule systems:
    input:
        "results/systems/report.html",


rule systems_pack:
    """All runs of one configuration in one process group; complete ones are kept when it is repeated."""
    output:
        touch("results/systems/{part}.packed"),
    message:
        "systems: runs of {wildcards.part}"
    log:
        "logs/systems/{part}.log",
    params:
        config=lambda wildcards: str(SYSTEMS_FOLDER / f"{wildcards.part}.yaml"),
        digests=lambda wildcards: list(load_cells(SYSTEMS_FOLDER / f"{wildcards.part}.yaml")),
    threads: workflow.cores
    conda:
        "../envs/ppfl.yaml"
    shell:
        "python -m ppfl pack {params.config:q} --out results/systems/{wildcards.part:q} --jobs {threads} > {log:q} 2>&1"


rule systems_study:
    """The claims and figures of one system."""
    input:
        lambda wildcards: systems_inputs(wildcards.study),
    output:
        "results/systems/figures/{study}.json",
    message:
        "systems: study {wildcards.study}"
    log:
        "logs/systems/figures/{study}.log",
    params:
        folder=str(SYSTEMS_FOLDER),
    conda:
        "../envs/ppfl.yaml"
    script:
        "../scripts/systems_study.py"


rule systems_report:
    """One self-contained HTML page."""
    input:
        # found when it is wanted: other targets do without such a folder
        lambda wildcards: expand("results/systems/figures/{study}.json", study=studies_of(SYSTEMS_FOLDER)),
    output:
        "results/systems/report.html",
    message:
        "systems: report"
    log:
        "logs/systems/report.log",
    params:
        configs=lambda wildcards: [systems_configs(study) for study in studies_of(SYSTEMS_FOLDER)],
    conda:
        "../envs/ppfl.yaml"
    script:
        "../scripts/systems_report.py"
