rule experiment:
    """One run of a grid, on several MPI ranks."""
    output:
        "results/{experiment}/{digest}.h5",
    message:
        "{wildcards.experiment}: run {wildcards.digest}"
    log:
        "logs/{experiment}/{digest}.log",
    params:
        # not an input: the digest says what is computed, and a comment in the file changes nothing
        config=lambda wildcards: EXPERIMENTS[wildcards.experiment][0],
        # written there and moved when complete: Snakemake deletes what a killed job has left of its outputs
        out="results/{experiment}/running/{digest}.h5",
    threads: config["ranks"]
    resources:
        mpi="mpiexec",
        tasks=config["ranks"],
        cpus_per_task=1,
    conda:
        "../envs/ppfl.yaml"
    shell:
        "{resources.mpi} -n {resources.tasks} python -m mpi4py -m ppfl run {params.config:q}"
        " --cell {wildcards.digest} --out {params.out:q} >> {log:q} 2>&1"
        " && mv {params.out:q}.* results/{wildcards.experiment:q}/ && mv {params.out:q} {output:q}"
