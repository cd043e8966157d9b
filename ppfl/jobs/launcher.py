"""Who started this process, as which of how many, told by environment variables: MPI itself is not needed for it."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ppfl.core.numbers import whole_number

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

    from ppfl.core.communicator import Communicator

_LAUNCHERS = (
    ("mpiexec (HPE PALS)", "PALS_RANKID", "PMI_SIZE"),
    ("mpiexec (Open MPI)", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("mpiexec (PMI)", "PMI_RANK", "PMI_SIZE"),
    ("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)
"""Name, variable of the rank, variable of the number of ranks. An mpiexec inside a batch job or a job step comes first.

SLURM_NTASKS is not among them: a batch script without srun has it too, and is a single process.
"""
_BEGUN = "PPFL_BEGUN"
"""Variable that slurm/continue.sh sets."""


@dataclass(frozen=True)
class LaunchedAs:
    """Rank `rank` of `size`; `size` is None when the launcher does not tell."""

    rank: int
    size: int | None
    name: str


def launched_as(environment: Mapping[str, str] = os.environ) -> LaunchedAs:
    """Return what the launcher says; rank 0 of 1 when there is none."""
    for name, *variables in _LAUNCHERS:
        rank, size = (whole_number(environment.get(variable, "")) for variable in variables)
        if rank is not None and size is not None:
            return LaunchedAs(rank, size, name)
    rank = whole_number(environment.get("PMIX_RANK", ""))
    if rank is not None:
        return LaunchedAs(rank, None, "a PMIx launcher")
    return LaunchedAs(0, 1, "no launcher")


def open_communicator() -> Communicator:
    """Return the group of all ranks; mpi4py is imported only when the launcher started more than one. Collective.

    Raises SharedUserError when MPI cannot be loaded, when it sees another number of ranks than the launcher started (N
    processes that each believe to be alone would all do the whole run), and when ranks have other CPUs or GPUs than
    Slurm was asked for.
    """
    from ppfl.jobs.allotment import check_allotment

    communicator = _open(launched_as())
    _say_begun()
    check_allotment(communicator)
    return communicator


def keep_addresses_short(environment: MutableMapping[str, str]) -> None:
    """Have the embedded MPICH talk to other nodes by libfabric instead of UCX, where Slurm hands its addresses around.

    Of UCX it sends 4096 bytes, whatever is in memory where an address begins, in lines of up to 1083 bytes, which get
    shorter where zeros follow each other; Slurm cuts a line at 1024, and the ranks of a dense memory wait for ever or
    abort. Addresses of libfabric are short.
    """
    by_slurm = environment.get("SLURM_MPI_TYPE") == "pmi2" and "MPI_LOCALNRANKS" not in environment  # not by Hydra
    if by_slurm and environment.get("SLURM_STEP_NUM_NODES", "1") != "1" and _is_embedded("mpich"):
        environment.setdefault("MPIR_CVAR_CH4_NETMOD", "ofi")


def _is_embedded(library: str) -> bool:
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        distribution(library)
    except PackageNotFoundError:
        return False
    return True


def _say_begun() -> None:
    """Make the file by which the job's script knows that MPI has started: ranks that end before are started again."""
    if mark := os.environ.get(_BEGUN):
        with suppress(OSError):  # it is a help, and no reason to end
            Path(mark).touch()


def _open(launched: LaunchedAs) -> Communicator:
    if launched.size == 1:
        from ppfl.comm.solo import SoloCommunicator

        return SoloCommunicator()
    from ppfl.core.agree import SharedUserError

    keep_addresses_short(os.environ)
    try:
        from ppfl.comm.mpi import MpiCommunicator, library
    except (ImportError, RuntimeError) as error:
        raise SharedUserError(
            f"{launched.name} started {launched.size or 'several'} processes, but mpi4py cannot load an MPI library "
            f"({error}); install ppfl[mpich], or load the MPI module of this machine; `ppfl doctor` shows what is found"
        ) from error
    # both counts are asked for, since a launcher of another MPI than the library's starts N processes of 1 rank each,
    # and all of them would compute everything and write to one file
    communicator = MpiCommunicator()
    if launched.size is not None and launched.size != communicator.size:
        raise SharedUserError(
            f"{launched.name} started {launched.size} processes, but MPI sees {communicator.size}: the launcher does "
            f"not fit the MPI library, {library()}. Start with {launcher_for(library())}; `ppfl doctor` shows what was "
            "picked up"
        )
    return communicator


def launcher_for(library: str) -> str:
    """Return which launchers fit an MPI library, told by its name."""
    if "Open MPI" in library:
        return "srun --mpi=pmix (`srun --mpi=list` shows whether there is such a thing), or the mpiexec of Open MPI"
    return "srun --mpi=pmi2, or the mpiexec of that library (of the embedded one: the one beside this Python)"
