"""Starting the ranks of a benchmark, and the plain way beside them; ranks wait for it asleep."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.data import ROOT

_LOOK_SECONDS = 0.02
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


def run_watched(command: list[str]) -> tuple[dict[int, int], int]:
    """Run a command; return the most resident memory of each of its processes, and the most that their files without
    a name, where states of clients are, took of a disk."""
    peaks: dict[int, int] = {}
    stored = 0
    with subprocess.Popen(command, cwd=ROOT, env=rank_environment(), stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            family = _family(process.pid)
            for child in family:
                # one that has just ended has no status any more
                with suppress(OSError, StopIteration, IndexError):
                    status = Path(f"/proc/{child}/status").read_text().splitlines()
                    line = next(line for line in status if line.startswith("VmHWM:"))
                    peaks[child] = int(line.split()[1]) * 1024
            stored = max(stored, sum(map(_stored_bytes, family)))
            time.sleep(_LOOK_SECONDS)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with exit code {process.returncode}")
    return peaks, stored


def _family(pid: int) -> list[int]:
    """Return a process and all that came of it."""
    found = [pid]
    for parent in found:
        with suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def _stored_bytes(pid: int) -> int:
    """Return what a process's files without a name in the folder of temporary ones take of a disk."""
    total = 0
    with suppress(OSError):
        for file in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                target = str(file.readlink())
                if target.startswith(tempfile.gettempdir()) and target.endswith(" (deleted)"):
                    total += file.stat().st_blocks * 512
    return total


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
