# The paper's figures: steps of the baselines tuned before they are compared.

wildcard_constraints:
    part="[a-z0-9-]+",


rule paper:
    """All figures of the paper and their report."""
    input:
        "results/paper/report.html",


rule paper_tune:
    """Step sizes of the comparison: least final ‖F‖ on seeds that are not shown."""
    input:
        expand("results/paper/{part}.packed", part=PAPER_TUNING),
    output:
        "results/paper/comparison.yaml",
    message:
        "paper: step sizes"
    log:
        "logs/paper/tune.log",
    params:
        tuning={paper_config(part): f"results/paper/{part}" for part in PAPER_TUNING},
        seeds=config["paper"]["seeds"],
    conda:
        "../envs/ppfl.yaml"
    script:
        "../scripts/paper_tune.py"
