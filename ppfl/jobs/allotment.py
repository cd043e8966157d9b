"""What Slurm was asked to give to each rank, compared with what a rank has."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

import torch

from ppfl.core.agree import SharedUserError, on_every_rank
from ppfl.core.errors import UserError
from ppfl.core.numbers import whole_number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ppfl.core.communicator import Communicator

_VISIBLE = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


def check_allotment(communicator: Communicator, environment: Mapping[str, str] = os.environ) -> None:
    """Compare CPUs and GPUs of every rank with those that Slurm was asked for. Collective.

    Raises SharedUserError, with the remedy, for fewer CPUs a rank, for a rank without the GPU that was asked for, and
    for two ranks on a GPU when each was to have its own.
    """
    on_every_rank(communicator, lambda: _check_cpus(communicator.rank, environment))
    on_every_rank(communicator, lambda: _check_gpus(communicator.rank, environment))
    if _asked_gpus(environment) == 1:
        node = environment.get("SLURMD_NODENAME", platform.node())
        line = f"{node} {_visible_gpus(environment)}\n".encode()
        gathered = communicator.allgather_rows(torch.tensor(list(line), dtype=torch.uint8))
        _refuse_shared(bytes(gathered.tolist()).decode().splitlines())


def _check_cpus(rank: int, environment: Mapping[str, str]) -> None:
    asked, allowed = whole_number(environment.get("SLURM_CPUS_PER_TASK", "")), len(os.sched_getaffinity(0))
    # a host may have fewer CPUs than Slurm was told: that is not srun's doing
    if asked is not None and allowed < min(asked, os.cpu_count() or 1):
        raise UserError(
            f"{asked} CPUs a rank were asked for, but rank {rank} may use {allowed}: srun does not take them "
            f"from the job by itself; export SRUN_CPUS_PER_TASK={asked} before srun, or give it --cpus-per-task={asked}"
        )


def _check_gpus(rank: int, environment: Mapping[str, str]) -> None:
    if _asked_gpus(environment) and not _visible_gpus(environment):
        raise UserError(
            f"{_asked_gpus(environment)} GPU(s) a rank were asked for, but rank {rank} sees none "
            f"({_VISIBLE[0]} is empty): start the ranks with srun, which hands them out, or ask for none "
            "(ppfl submit --cpu, sbatch --gpus-per-task=0)"
        )


def _refuse_shared(lines: Sequence[str]) -> None:
    owners: dict[str, int] = {}
    for rank, line in enumerate(lines):
        # a rank that sees several takes them in turn with its neighbours
        if "," not in line and owners.setdefault(line, rank) != rank:
            node, gpu = line.split(" ", 1)
            raise SharedUserError(
                f"ranks {owners[line]} and {rank} share GPU {gpu} of {node}, though one GPU a rank was asked for: "
                "start them with srun --gpus-per-task=1, or ask for sharing (ppfl submit --ranks-per-gpu 2)"
            )


def _asked_gpus(environment: Mapping[str, str]) -> int:
    """Return the number in a text such as `1` or `a100:1`; 0 when GPUs were not asked for by rank."""
    return whole_number(environment.get("SLURM_GPUS_PER_TASK", "").rpartition(":")[2]) or 0


def _visible_gpus(environment: Mapping[str, str]) -> str:
    found = next((environment[name] for name in _VISIBLE if name in environment), "")
    return "" if found == "NoDevFiles" else found
