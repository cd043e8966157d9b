# The paper's figures and the page that explains them.

rule paper_exhibit:
    """One figure, and what theory says of it."""
    input:
        "results/paper/{part}.packed",
    output:
        svg="results/paper/figures/{part}.svg",
        png="results/paper/figures/{part}.png",
        words="results/paper/figures/{part}.json",
    message:
        "paper: figure {wildcards.part}"
    log:
        "logs/paper/figures/{part}.log",
    params:
        config=lambda wildcards: paper_config(wildcards.part),
    conda:
        "../envs/ppfl.yaml"
    script:
        "../scripts/paper_exhibit.py"


rule paper_report:
    """One self-contained HTML page."""
    input:
        figures=expand("results/paper/figures/{part}.svg", part=PAPER_EXHIBITS),
        words=expand("results/paper/figures/{part}.json", part=PAPER_EXHIBITS),
    output:
        "results/paper/report.html",
    message:
        "paper: report"
    log:
        "logs/paper/report.log",
    params:
        configs=[paper_config(part) for part in PAPER_EXHIBITS],
    conda:
        "../envs/ppfl.yaml"
    script:
        "../scripts/paper_report.py"
