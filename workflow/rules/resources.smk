from ppfl.jobs.gpus_in_vain import torch_without_gpus, without
from ppfl.submit.memory import memory_mb

# Slurm's signals reach the steps of the job, which are the ranks, and not the Snakemake around them.
SLURM_OPTIONS = "--signal=USR1@60 --open-mode=append" + " --gpus-per-task=1" * config["gpus"]

if config["gpus"] and torch_without_gpus():
    logger.warning(f"gpus: true, and runs would compute on the CPU: {without(torch_without_gpus())}")

JOB_MB = 800  # of the two Snakemakes inside a job, beside the ranks


def megabytes_a_cpu(experiment, digest, ranks):
    """Return what a rank needs by our estimate, and the job beside it: the node of its script may have one rank only."""
    needed = memory_mb([RUNS[experiment, digest][1]], ranks, gpus=config["gpus"])
    return (needed or 2000) + JOB_MB
