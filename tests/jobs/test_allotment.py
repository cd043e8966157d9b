"""CPUs and GPUs of a rank against what Slurm was asked for."""

from __future__ import annotations

import os

import pytest

from ppfl.core.agree import SharedUserError
from ppfl.jobs.allotment import check_allotment
from ppfl.jobs.launcher import launcher_for
from tests.ranks import on_ranks

CORES = len(os.sched_getaffinity(0))


def check(*environments: dict[str, str]) -> None:
    on_ranks(len(environments), lambda ranks: check_allotment(ranks, environments[ranks.rank]))


def test_what_was_asked_for_is_accepted() -> None:
    check({})
    check({"SLURM_CPUS_PER_TASK": "1"}, {"SLURM_CPUS_PER_TASK": "1"})
    gpu = {"SLURM_GPUS_PER_TASK": "a100:1", "SLURMD_NODENAME": "n0"}
    check(gpu | {"CUDA_VISIBLE_DEVICES": "0"}, gpu | {"CUDA_VISIBLE_DEVICES": "1"})
    check(gpu | {"CUDA_VISIBLE_DEVICES": "0"}, gpu | {"CUDA_VISIBLE_DEVICES": "0", "SLURMD_NODENAME": "n1"})
    # an mpiexec binds nothing: the ranks of a node share the list and take turns
    check(gpu | {"CUDA_VISIBLE_DEVICES": "0,1"}, gpu | {"CUDA_VISIBLE_DEVICES": "0,1"})
    # sharing was asked for: GPUs of a node, not of a rank
    check({"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "0"})


def test_more_cpus_than_the_machine_has_are_not_missed() -> None:
    if os.cpu_count() == CORES:
        check({"SLURM_CPUS_PER_TASK": str(CORES + 1)})


@pytest.mark.skipif(CORES < 2, reason="one core cannot be taken away")
def test_fewer_cpus_are_refused() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        with pytest.raises(
            SharedUserError, match=r"2 CPUs a rank were asked for, but rank 0 may use 1: .*--cpus-per-task=2"
        ):
            check({"SLURM_CPUS_PER_TASK": "2"})
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize("visible", [{}, {"CUDA_VISIBLE_DEVICES": ""}, {"CUDA_VISIBLE_DEVICES": "NoDevFiles"}])
def test_a_rank_without_its_gpu_is_refused_on_all(visible: dict[str, str]) -> None:
    asked = {"SLURM_GPUS_PER_TASK": "1"}
    with pytest.raises(SharedUserError, match=r"but rank 1 sees none .*--cpu"):
        check(asked | {"CUDA_VISIBLE_DEVICES": "0"}, asked | visible)


def test_two_ranks_on_one_gpu_are_refused() -> None:
    asked = {"SLURM_GPUS_PER_TASK": "1", "SLURMD_NODENAME": "n3", "CUDA_VISIBLE_DEVICES": "1"}
    with pytest.raises(SharedUserError, match=r"ranks 0 and 2 share GPU 1 of n3, .*--ranks-per-gpu 2"):
        check(asked, asked | {"CUDA_VISIBLE_DEVICES": "0"}, asked)


def test_the_launcher_that_fits_is_named() -> None:
    assert "--mpi=pmix" in launcher_for("Open MPI v5.0.11, package: ...")
    assert "--mpi=pmi2" in launcher_for("MPICH Version: 5.0.2")
    assert "--mpi=pmi2" in launcher_for("Intel(R) MPI Library 2021.13")
