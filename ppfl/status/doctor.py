"""`ppfl doctor`: what this installation consists of, what is wrong with it, and what to do about that."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from ppfl.core.errors import UserError
from ppfl.jobs.launcher import launched_as, open_communicator
from ppfl.runs.determinism import DETERMINISTIC_WORKSPACES, WORKSPACE
from ppfl.runs.device import choose_device, name_device
from ppfl.status.show import wide_console

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ppfl.core.communicator import Communicator

_PROBE_MPI = """
import mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
print(" ".join(MPI.Get_library_version().split("\\n")[0].split()))
"""
_INSTALL_MPI = (
    "one process works without; for several, pip install 'ppfl[mpich]', or load the MPI module of this machine and set "
    "MPI4PY_LIBMPI where it is not found"
)
_LAUNCHER_PREFIXES = ("PMI", "PMIX", "OMPI", "PRTE", "HYDRA", "MPI_LOCAL", "SLURM", "PALS")
_PROBE_SECONDS = 60
_COLOURS = {"ok": "green", "warn": "yellow", "error": "red"}


@dataclass(frozen=True)
class Diagnosis:
    """One thing that was looked at; `remedy` is empty when nothing needs to be done."""

    subject: str
    state: Literal["ok", "warn", "error"]
    finding: str
    remedy: str = ""


def examine(out: Path) -> bool:
    """Look at everything, print a table on rank 0; return whether anything does not work. Collective."""
    diagnoses = [*_ranks()]
    if launched_as().rank == 0:
        diagnoses = [*_software(), mpi_library(), _mpiexec(), *diagnoses, _hdf5(), _file_locks(out)]
        _print(diagnoses)
    return any(diagnosis.state == "error" for diagnosis in diagnoses)


def _software() -> Iterator[Diagnosis]:
    version = platform.python_version()
    yield _judged(
        "Python",
        f"{version} at {sys.executable}",
        sys.version_info[:2] == (3, 11),
        "tested with Python 3.11 alone: make the environment with it if something fails",
    )
    yield Diagnosis("torch", "ok", str(torch.__version__))
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    hint = "nothing on a machine without GPU; with one, install the CUDA build of torch (see the README)"
    taken = "ranks, and children of a pack, take them in turn; quadratics take the CPU unless engine.device is cuda"
    yield Diagnosis("GPUs", "ok", ", ".join(gpus) or "none", taken if gpus else hint)
    mkl = os.environ.get("MKL_CBWR", "unset")
    yield _judged(
        "MKL_CBWR",
        mkl,
        mkl == "AVX2",
        "unset it, ppfl then sets AVX2: otherwise the last bits of results may depend on the number of ranks",
    )
    workspace = os.environ.get(WORKSPACE, "unset")
    yield _judged(
        WORKSPACE,
        workspace,
        workspace in DETERMINISTIC_WORKSPACES,
        f"unset it, ppfl then sets {DETERMINISTIC_WORKSPACES[0]}: otherwise runs on a GPU refuse engine.deterministic",
    )
    has_snakemake = importlib.util.find_spec("snakemake") is not None
    yield _judged(
        "Snakemake",
        "found" if has_snakemake else "not found",
        has_snakemake,
        "only the workflow needs it: install ppfl again with pip, which brings it",
    )


def _judged(subject: str, finding: str, is_good: bool, remedy: str) -> Diagnosis:
    return Diagnosis(subject, "ok", finding) if is_good else Diagnosis(subject, "warn", finding, remedy)


def _mpiexec() -> Diagnosis:
    found, beside = shutil.which("mpiexec"), Path(sys.executable).parent / "mpiexec"
    if found is None:
        remedy = f"put {beside.parent} first on PATH (activate the environment)" if beside.exists() else _INSTALL_MPI
        return Diagnosis("mpiexec", "warn", "not on PATH", remedy)
    is_ours = not beside.exists() or beside.samefile(found)
    remedy = f"it is not the one of this environment, {beside}: put the folder of that one first on PATH"
    return _judged("mpiexec", found, is_ours, remedy)


def mpi_library() -> Diagnosis:
    """Return which MPI library mpi4py loads; asked of a process of its own, which a wrong library may crash."""
    # or the library of the child would take itself for a rank, and wait for the launcher
    environment = {key: value for key, value in os.environ.items() if not key.startswith(_LAUNCHER_PREFIXES)}
    try:
        child = subprocess.run(
            [sys.executable, "-c", _PROBE_MPI],
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Diagnosis("MPI library", "error", f"mpi4py did not load within {_PROBE_SECONDS} s", _INSTALL_MPI)
    if child.returncode == 0:
        return Diagnosis("MPI library", "ok", child.stdout.strip())
    last = (child.stderr.strip().splitlines() or [f"ended with code {child.returncode}"])[-1]
    return Diagnosis("MPI library", "warn", f"mpi4py does not work: {last}", _INSTALL_MPI)


def _ranks() -> Iterator[Diagnosis]:
    """One diagnosis a rank, on every rank. Collective."""
    launched = launched_as()
    try:
        communicator = open_communicator()
    except UserError as error:
        yield Diagnosis("launcher", "error", f"{launched.name}, {launched.size} processes", str(error))
        return
    yield Diagnosis("launcher", "ok", f"{launched.name}, {communicator.size} rank(s)")
    cores = len(os.sched_getaffinity(0))
    device = name_device(choose_device("auto", communicator))
    mine = f"{platform.node()}, process {os.getpid()}, {cores} core(s) allowed, {device}"
    for rank, text in enumerate(_gather_lines(communicator, mine)):
        yield Diagnosis(f"rank {rank}", "ok", text)


def _gather_lines(communicator: Communicator, line: str) -> list[str]:
    """Return the line of every rank, in the order of ranks. Collective."""
    mine = torch.tensor(list(f"{line}\n".encode()), dtype=torch.uint8)
    return bytes(communicator.allgather_rows(mine).tolist()).decode().splitlines()


def _hdf5() -> Diagnosis:
    import h5py

    return Diagnosis("HDF5", "ok", f"{h5py.version.hdf5_version} (h5py {h5py.__version__})")


def _file_locks(folder: Path) -> Diagnosis:
    """Lock a file in the folder for real; HDF5 does so whenever it opens one."""
    subject = f"file locks in {folder}"
    import h5py

    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    where = "" if existing == folder else f" (tried in {existing}, since it does not exist yet)"
    try:
        with tempfile.TemporaryDirectory(dir=existing, prefix=".ppfl-doctor-") as scratch:
            path = Path(scratch, "probe.h5")
            with h5py.File(path, "w") as file:
                file["probe"] = 1
            with path.open("rb") as first, path.open("rb") as second:
                # twice by different descriptors, since some file systems grant every lock
                fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
                refused = _is_locked(second.fileno())
    except OSError as error:
        remedy = (
            "choose a folder that you may write to, with --out; on a file system without locks, set "
            "HDF5_USE_FILE_LOCKING=FALSE"
        )
        return Diagnosis(subject, "error", f"a file could not be written and locked: {error}", remedy)
    if not refused:
        return Diagnosis(subject, "warn", f"granted twice{where}", "never start the same run twice at once here")
    return Diagnosis(subject, "ok", f"work{where}")


def _is_locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _print(diagnoses: list[Diagnosis]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("", "what", "found", "what to do")
    for diagnosis in diagnoses:
        state = Text(diagnosis.state, style=_COLOURS[diagnosis.state])
        table.add_row(state, Text(diagnosis.subject), Text(diagnosis.finding), Text(diagnosis.remedy))
    wide_console().print(table)
