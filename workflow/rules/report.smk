rule report:
    """One self-contained HTML page about all experiments."""
    input:
        results=[inputs_of(experiment) for experiment in EXPERIMENTS],
        figures=expand("results/figures/{experiment}.svg", experiment=EXPERIMENTS),
    output:
        "results/report.html",
    message:
        "report"
    log:
        "logs/report.log",
    params:
        experiments={experiment: results_of(experiment) for experiment in EXPERIMENTS},
    conda:
        "../envs/ppfl.yaml"
    script:
        "../scripts/report.py"
