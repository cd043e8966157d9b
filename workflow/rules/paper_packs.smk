# The runs of the paper's figures: one `ppfl pack` an experiment.

rule paper_pack:
    """All runs of one experiment in one process group; complete ones are kept when it is repeated."""
    output:
        touch("results/paper/{part}.packed"),
    message:
        "paper: runs of {wildcards.part}"
    log:
        "logs/paper/{part}.log",
    params:
        config=lambda wildcards: paper_config(wildcards.part),
        # not used by the command: another grid is another job
        digests=lambda wildcards: list(load_cells(paper_config(wildcards.part))),
    threads: workflow.cores
    conda:
        "../envs/ppfl.yaml"
    shell:
        "python -m ppfl pack {params.config:q} --out results/paper/{wildcards.part:q} --jobs {threads} > {log:q} 2>&1"


rule paper_pack_comparison:
    """The runs with tuned steps."""
    input:
        "results/paper/comparison.yaml",
    output:
        touch("results/paper/comparison.packed"),
    message:
        "paper: runs of comparison"
    log:
        "logs/paper/comparison.log",
    threads: workflow.cores
    conda:
        "../envs/ppfl.yaml"
    shell:
        "python -m ppfl pack {input:q} --out results/paper/comparison --jobs {threads} > {log:q} 2>&1"


ruleorder: paper_pack_comparison > paper_pack
