"""Who started us: told from the environment, checked against MPI."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ppfl.jobs.launcher import LaunchedAs, keep_addresses_short, launched_as

MPIEXEC = str(Path(sys.executable).with_name("mpiexec"))
LAUNCHER_VARIABLES = ("PMI", "PMIX", "OMPI", "SLURM", "PALS", "HYDRA", "MPI_LOCAL")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, LaunchedAs(0, 1, "no launcher")),
        ({"PMI_RANK": "1", "PMI_SIZE": "4"}, LaunchedAs(1, 4, "mpiexec (PMI)")),
        ({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "3", "PMIX_RANK": "2"},
         LaunchedAs(2, 3, "mpiexec (Open MPI)")),
        ({"PALS_RANKID": "5", "PMI_RANK": "5", "PMI_SIZE": "8"}, LaunchedAs(5, 8, "mpiexec (HPE PALS)")),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4"}, LaunchedAs(3, 4, "srun")),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "PMIX_RANK": "3"}, LaunchedAs(3, 4, "srun")),
        ({"PMIX_RANK": "3"}, LaunchedAs(3, None, "a PMIx launcher")),
        # a batch script without srun is one process, however many tasks the job has
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "1"}, LaunchedAs(0, 1, "no launcher")),
        # mpiexec inside a job step of one task
        ({"PMI_RANK": "1", "PMI_SIZE": "2", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},
         LaunchedAs(1, 2, "mpiexec (PMI)")),
        ({"PMI_RANK": "", "PMI_SIZE": "x"}, LaunchedAs(0, 1, "no launcher")),
    ],
)  # fmt: skip
def test_rank_and_size_come_from_the_launcher(environment: dict[str, str], expected: LaunchedAs) -> None:
    assert launched_as(environment) == expected


OPEN = (
    "import sys, torch; from ppfl.jobs.launcher import open_communicator; c = open_communicator();"
    "total = c.allreduce(torch.tensor([c.rank + 1]), 'sum');"
    "sys.stdout.write(f'{type(c).__name__} {c.size} {int(total)} {\"mpi4py.MPI\" in sys.modules}\\n')"
)


def python(*arguments: str, launcher: tuple[str, ...] = (), **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(LAUNCHER_VARIABLES)}
    return subprocess.run(
        [*launcher, sys.executable, *arguments], env=environment | variables, capture_output=True, text=True,
        timeout=120, check=False, cwd=Path(__file__).parent.parent.parent,
    )  # fmt: skip


def test_one_process_does_not_load_mpi() -> None:
    assert python("-c", OPEN).stdout.split() == ["SoloCommunicator", "1", "1", "False"]


@pytest.mark.mpi
def test_two_ranks_find_each_other() -> None:
    done = python("-m", "mpi4py", "-c", OPEN, launcher=(MPIEXEC, "-n", "2"))
    assert sorted(done.stdout.splitlines()) == ["MpiCommunicator 2 3 True"] * 2, done.stderr


@pytest.mark.mpi
def test_one_rank_under_mpiexec_is_one_process() -> None:
    done = python("-m", "mpi4py", "-c", OPEN, launcher=(MPIEXEC, "-n", "1"))
    assert done.stdout.split() == ["SoloCommunicator", "1", "1", "False"], done.stderr


@pytest.mark.mpi
@pytest.mark.parametrize(("rank", "told"), [("0", 1), ("1", 0)])
def test_processes_that_each_believe_to_be_alone_are_refused(tmp_path: Path, rank: str, told: int) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(
        "{name: c, rounds: 1, problem: {name: quadratic, generator: comparison, zeta: 1},"
        " algorithm: {name: ffgg, lr: theory, fine_tuner: {name: exact}}}"
    )
    done = python(
        "-m", "mpi4py", "-m", "ppfl", "run", str(config), "--out", str(tmp_path / "r.h5"),
        SLURM_PROCID=rank, SLURM_STEP_NUM_TASKS="2",
    )  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if line.startswith("ppfl: error")]
    assert done.returncode == 2
    assert len(lines) == told
    assert all("srun started 2 processes, but MPI sees 1" in line and "--mpi=pmi2" in line for line in lines)
    assert not (tmp_path / "r.h5").exists()


def test_without_an_mpi_library_the_remedy_is_named(tmp_path: Path) -> None:
    script = OPEN.replace("c = open_communicator()", "sys.modules['mpi4py'] = None; c = open_communicator()")
    done = python("-c", script, PMI_RANK="0", PMI_SIZE="2")
    assert done.returncode != 0
    assert "mpi4py cannot load an MPI library" in done.stderr
    assert "pip install" in done.stderr or "install ppfl[mpich]" in done.stderr


BY_SLURM = {"SLURM_MPI_TYPE": "pmi2", "SLURM_STEP_NUM_NODES": "2"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (BY_SLURM, "ofi"),
        (BY_SLURM | {"MPIR_CVAR_CH4_NETMOD": "ucx"}, "ucx"),
        (BY_SLURM | {"SLURM_STEP_NUM_NODES": "1"}, None),
        (BY_SLURM | {"SLURM_MPI_TYPE": "pmix"}, None),
        (BY_SLURM | {"MPI_LOCALNRANKS": "1"}, None),
        ({}, None),
    ],
)
def test_ucx_is_left_alone_where_slurm_hands_no_addresses_around(
    environment: dict[str, str], expected: str | None
) -> None:
    found = dict(environment)
    keep_addresses_short(found)
    assert found.get("MPIR_CVAR_CH4_NETMOD") == expected
