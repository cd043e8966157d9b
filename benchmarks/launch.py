"""Starting the ranks of a benchmark, and the plain way beside them; ranks wait for it asleep."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.data import ROOT

_OF_LAUNCHERS = ("PMI", "MPI", "HYDRA", "OMPI", "PALS", "GFORTRAN")
_OF_TUNING = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "MKL_", "OMP_", "KMP_", "GOMP_", "TORCH", "DNNL_")


def launcher(ranks: int) -> list[str]:
    """Return the beginning of a command that starts ranks; the last word is Python, on one rank the only one."""
    if ranks == 1:
        return [sys.executable]
    beside = Path(sys.executable).with_name("mpiexec")
    mpiexec = str(beside) if beside.exists() else shutil.which("mpiexec")
    if mpiexec is None:
        raise SystemExit(f"--ranks {ranks}: no mpiexec is installed; pip install 'ppfl[mpich]', or use --ranks 1")
    return [mpiexec, "-n", str(ranks), sys.executable, "-m", "mpi4py"]


def rank_environment() -> dict[str, str]:
    """Return the environment of ranks: one thread each."""
    return os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def plain_environment() -> dict[str, str]:
    """Return this environment without what launchers, ppfl or somebody tuning set in it."""
    unwanted = (*_OF_LAUNCHERS, *_OF_TUNING)
    return {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}


def run_ranks(ranks: int, module: str, spec: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run a module on ranks; return what rank 0 has to say. The spec and the answer are JSON files."""
    question, answer = folder / "question.json", folder / "answer.json"
    question.write_text(json.dumps(spec))
    answer.unlink(missing_ok=True)
    done = subprocess.run(
        [*launcher(ranks), "-m", module, str(question), str(answer)],
        cwd=ROOT,
        env=rank_environment(),
        stdout=sys.stderr,
        check=False,
    )
    if done.returncode != 0 or not answer.exists():
        raise SystemExit(f"{module} on {ranks} rank(s) ended with exit code {done.returncode}")
    found: dict[str, Any] = json.loads(answer.read_text())
    return found


class PlainProcess:
    """The plain way in a process of its own, started by rank 0; every rank calls `round`."""

    def __init__(self, handover: Path, threads: int, rank: int, program: tuple[str, str]) -> None:
        """Start it on rank 0; `program` is a Python and the name of a module."""
        self._handover = handover
        self._rank = rank
        self._count = 0
        self._process: subprocess.Popen[str] | None = None
        if rank == 0:
            self._process = subprocess.Popen(
                [program[0], "-m", program[1], str(handover), str(threads)],
                cwd=ROOT,
                env=plain_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            self._answer()

    def round(self) -> float:
        """Have one round computed; return its seconds on rank 0. Other ranks sleep meanwhile, then go on."""
        self._count += 1
        turn = self._handover.with_suffix(f".turn{self._count}")
        if self._process is None:
            while not turn.exists():
                time.sleep(0.005)
            return 0.0
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        seconds = float(json.loads(self._answer()))
        turn.touch()
        return seconds

    def finish(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.communicate()

    def _answer(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the plain process ended with exit code {self._process.wait()}")
        return line
