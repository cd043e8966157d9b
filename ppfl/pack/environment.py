"""What a process that a launcher started hands on to its children: not that it is a rank."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ppfl.core.numbers import whole_number

if TYPE_CHECKING:
    from collections.abc import Mapping

_PREFIXES = (
    "PMI_",
    "PMIX_",
    "OMPI_",
    "PRTE_",
    "PALS_",
    "HYDRA_",
    "HYDI_",
    "MPIR_",
    "MPI_LOCAL",
    "SLURM_STEP",
    "SLURM_SRUN",
)
_NAMES = frozenset({
    "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_GTIDS", "SLURM_TASK_PID", "SLURM_NTASKS", "SLURM_NPROCS",
    "SLURM_LAUNCH_NODE_IPADDR", "SLURM_DISTRIBUTION", "SLURM_UMASK", "SLURM_CPU_BIND", "SLURM_TASKS_PER_NODE",
    "SLURM_NTASKS_PER_NODE",
})  # fmt: skip
_KEPT = ("PRTE_MCA_",)  # settings of Open MPI's own launcher, wanted by the ones that a child starts


def without_ranks(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment without what makes a process one of several; the job itself stays known."""
    return {
        name: value
        for name, value in environment.items()
        if name not in _NAMES and (name.startswith(_KEPT) or not name.startswith(_PREFIXES))
    }


def default_jobs(ranks_per_run: int = 1, environment: Mapping[str, str] = os.environ) -> int:
    """Return how many runs this process should have at work: as many as it has cores, or tasks of its Slurm job.

    Several processes of a launcher that share the cores of a host share them evenly.
    """
    if ranks_per_run > 1:
        tasks = whole_number(environment.get("SLURM_NTASKS", ""))
        return max(1, (tasks or len(os.sched_getaffinity(0))) // ranks_per_run)
    cpus = whole_number(environment.get("SLURM_CPUS_PER_TASK", ""))
    if cpus:
        return cpus
    # the cores that this process may use, not those of the machine: batch systems and containers give some of them
    return max(1, len(os.sched_getaffinity(0)) // processes_on_this_host(environment))


def processes_on_this_host(environment: Mapping[str, str]) -> int:
    """Return how many processes a launcher has started here, of which this is one; 1 without a launcher."""
    for name in ("MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "PALS_LOCAL_SIZE"):
        count = whole_number(environment.get(name, ""))
        if count is not None:
            return max(1, count)
    if whole_number(environment.get("SLURM_PROCID", "")) is None:
        return 1
    # "2(x3),1": srun without bound cores; the first number is as good as any
    return whole_number(environment.get("SLURM_STEP_TASKS_PER_NODE", "").split(",")[0].split("(")[0]) or 1
