"""Runs of several ranks, each a program of its own that a launcher starts."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ppfl.core.errors import USER_ERROR, UserError
from ppfl.jobs.claim import CLAIMED_WORDS
from ppfl.jobs.failures import describe_exit
from ppfl.jobs.stopping import ON_REQUEST, STOPPED, STOPPED_ON_REQUEST, StopSignals
from ppfl.pack.run_queue import CLAIMED, Executor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ppfl.config.grid import Cell
    from ppfl.pack.scheduler import Work

ALREADY_DONE = "already done"
_LOOK_AGAIN_SECONDS = 0.2
_TAIL_LINES = 20
_PR_SET_PDEATHSIG = 1


class StepError(RuntimeError):
    """A program that ended with an error; what it said is a note."""


@dataclass(frozen=True)
class Step:
    """What a child is told: a run of a file, and where its result goes."""

    config: Path
    overrides: tuple[str, ...]
    digest: str
    out: Path
    num_ranks: int


def in_steps(config: Path, overrides: tuple[str, ...], num_ranks: int) -> Executor:
    """Return what does the runs of a file on several ranks each."""

    def payload(cell: Cell, out: Path) -> Step:
        return Step(config, overrides, cell.digest, out, num_ranks)

    return Executor("ppfl.pack.steps:make_work", payload, has_batches=False)


def launcher(num_ranks: int, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the command that starts ranks: srun inside a Slurm job, else the mpiexec beside this Python.

    PPFL_PACK_LAUNCHER replaces it, e.g. "srun --mpi=pmix --exact"; the number of ranks is added unless it says one.
    """
    given = environment.get("PPFL_PACK_LAUNCHER", "").split()
    if given:
        says_ranks = any(word in ("-n", "-np") or word.startswith("--ntasks") for word in given)
        return given if says_ranks else [*given, "-n", str(num_ranks)]
    if environment.get("SLURM_JOB_ID"):
        return ["srun", "--exact", "--mpi=pmi2", "-n", str(num_ranks)]
    beside = Path(sys.executable).with_name("mpiexec")
    return [str(beside) if beside.exists() else "mpiexec", "-n", str(num_ranks)]


def make_work() -> Work:
    """Return the function that runs steps from this process; called once in every child."""
    wants_stop = StopSignals(can_be_interrupted=False)

    def work(steps: Sequence[Step]) -> Sequence[str | Exception]:
        return [_run(step, wants_stop) for step in steps]

    return work


def _run(step: Step, wants_stop: Callable[[], bool]) -> str:
    overrides = [argument for override in step.overrides for argument in ("--set", override)]
    # by way of mpi4py, which aborts all ranks when one of them raises
    ppfl = [sys.executable, "-m", "mpi4py", "-m", "ppfl", "run", str(step.config), "--cell", step.digest, *overrides]
    command = [*launcher(step.num_ranks), *ppfl, "--out", str(step.out)]
    try:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="surrogateescape",  # as paths come to us
            preexec_fn=_end_with_parent,
        )
    except OSError as error:
        raise UserError(f"--ranks-per-run: cannot start {command[0]}: {error.strerror}") from error
    said = _follow(process, wants_stop)
    if process.returncode == STOPPED:
        return "stopped"
    if process.returncode == STOPPED_ON_REQUEST:
        return ON_REQUEST
    if wants_stop() and not 0 <= process.returncode <= USER_ERROR:
        return "stopped"  # signalled before its ranks could listen: nothing is lost
    if process.returncode == 0:
        statuses = [line.partition(":")[0] for line in said if line.endswith(f": {step.out}")]
        return statuses[-1] if statuses else ALREADY_DONE
    reason = next((line for line in reversed(said) if line.startswith("ppfl: error")), "")
    if any(words in reason for words in CLAIMED_WORDS):  # all that comes out of a launcher is text
        return CLAIMED
    failure = StepError(reason.removeprefix("ppfl: error: ") or describe_exit(process.returncode))
    failure.add_note("\n".join(said[-_TAIL_LINES:]))
    raise failure


def _end_with_parent() -> None:
    """Have the kernel end this process when the one that started it ends, and not a lost terminal: mpiexec would kill
    its ranks, while we are about to tell it to stop."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _follow(process: subprocess.Popen[str], wants_stop: Callable[[], bool]) -> list[str]:
    """Return the lines of a program that is told to stop when we are."""
    told = False
    while True:
        try:
            return process.communicate(timeout=_LOOK_AGAIN_SECONDS)[0].splitlines()
        except subprocess.TimeoutExpired:
            # once: it is asked five times a second, and a launcher hands every signal on to all ranks
            if wants_stop() and not told:
                process.send_signal(signal.SIGUSR1)
                told = True
