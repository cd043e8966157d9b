rule experiment:
    """One run of a grid, on several MPI ranks."""
    input:
        lambda wildcards: start_of(wildcards.experiment, wildcards.digest),
    output:
        # not removed before the job: a run by hand may have finished it meanwhile
        update("results/{experiment}/{digest}.h5"),
    message:
        "{wildcards.experiment}: run {wildcards.digest}, shown by: ppfl log results/{wildcards.experiment}/{wildcards.digest}.h5"
    log:
        "logs/{experiment}/{digest}.log",
    params:
        # not an input: the digest says what is computed, and a comment in the file changes nothing
        arguments=lambda wildcards: join(RUNS[wildcards.experiment, wildcards.digest][0]),
        # a run that was stopped with everything saved goes back to the queue
        scripts=experiment_file("slurm"),
        # what srun is to give to each rank; Snakemake takes the variables of Slurm out of its jobs
        srun="SRUN_CPUS_PER_TASK=1" + " SLURM_GPUS_PER_TASK=1" * config["gpus"],
    threads: config["ranks"]
    resources:
        launcher="mpiexec",
        # says that the command starts its own ranks; the Slurm executor refuses it for one task
        mpi="yes" if config["ranks"] > 1 else "",
        tasks=config["ranks"],
        cpus_per_task=1,
        mem_mb_per_cpu=lambda wildcards: megabytes_a_cpu(wildcards.experiment, wildcards.digest, config["ranks"]),
        slurm_extra=SLURM_OPTIONS,
    conda:
        "../envs/ppfl.yaml"
    shell:
        "source {params.scripts:q}/continue.sh;"
        " or_requeue env {params.srun} {resources.launcher} -n {resources.tasks} python -m mpi4py -m ppfl run"
        " {params.arguments} --out {output:q} --deliver >> {log:q} 2>&1"
