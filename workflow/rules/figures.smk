rule figure:
    """Curves of one experiment, all runs."""
    input:
        lambda wildcards: inputs_of(wildcards.experiment),
    output:
        png="results/figures/{experiment}.png",
        svg="results/figures/{experiment}.svg",
    message:
        "{wildcards.experiment}: figure"
    log:
        "logs/figures/{experiment}.log",
    params:
        results=lambda wildcards: results_of(wildcards.experiment),
    conda:
        "../envs/ppfl.yaml"
    script:
        "../scripts/figure.py"
