rule experiment:
    """One run of a grid, on several MPI ranks."""
    output:
        # the run keeps its own file, so that Snakemake never deletes the rounds of a run that was killed
        touch("results/{experiment}/{digest}.done"),
    message:
        "{wildcards.experiment}: run {wildcards.digest}"
    log:
        "logs/{experiment}/{digest}.log",
    params:
        # not an input: the digest says what is computed, and a comment in the file changes nothing
        config=lambda wildcards: EXPERIMENTS[wildcards.experiment][0],
        out="results/{experiment}/{digest}.h5",
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
