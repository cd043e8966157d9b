"""Why ranks ended that could not say so themselves: their supervisors were killed together with them.

Called by slurm/continue.sh, in the batch script, which is what is left of a job when a step is killed for its memory.
"""

from __future__ import annotations

import os
import re
import signal
import stat
from dataclasses import replace
from typing import TYPE_CHECKING

from ppfl.jobs.failures import Failure, describe_exit, read_failure, write_failure
from ppfl.jobs.slurm import NoAnswerError, ask
from ppfl.jobs.states import state_of
from ppfl.results.layout import failed_path, running_path

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ppfl.jobs.states import RunState

OUT_OF_MEMORY = "OUT_OF_MEMORY"
_KILLED = 128
"""A shell adds the number of the signal to this."""
_TIMEOUT_SECONDS = 10.0
_TAIL_BYTES = 1 << 16
_WORDS = re.compile(r"oom[-_ ]kill|out of memory|exceeded (?:job |step )?memory limit", re.IGNORECASE)
_MAYBE = "(out of memory?)"
"""What `describe_exit` says of a process that was killed by SIGKILL."""


def note_end(code: int, results: Mapping[Path, str], environment: Mapping[str, str]) -> int:
    """Write the reason beside each result that this job was at work on, or make the one that is there exact.

    `code` is what the step ended with, `results` {result: what varies, in words}. Returns how many were noted.
    """
    job = environment.get("SLURM_JOB_ID", "")
    is_sure = _says_sacct(job) or _says_slurmstepd(job)
    reason = _reason(code, environment, is_sure=is_sure)
    # killed before it could claim its only run; of several nobody knows which were meant
    had_no_time = len(results) == 1 and (is_sure or code > _KILLED)
    states = {out: state_of(out) for out in results}
    # a step may end with another code than the rank that a guess is about
    knows_better = is_sure or code == _KILLED + signal.SIGKILL
    ours = {
        out: state
        for out, state in states.items()
        if _is_left_by(job, state, had_no_time=had_no_time, knows_better=knows_better)
    }
    return sum(_note(out, reason, results[out], state) for out, state in ours.items())


def _is_left_by(job: str, state: RunState, *, had_no_time: bool, knows_better: bool) -> bool:
    """Say whether a step of this job had a run and left no note, or one that only guesses."""
    if state.kind in ("running", "stale"):
        return str(state.facts.get("job", "")) == job
    if state.kind == "failed":
        return knows_better and state.facts.get("job") == job and _MAYBE in str(state.facts.get("reason", ""))
    return had_no_time and state.kind != "done"


def _note(out: Path, reason: str, cell: str, state: RunState) -> bool:
    round = state.facts.get("round")
    failure = read_failure(out) or Failure(
        digest=out.stem, cell=cell, reason=reason, round=round if isinstance(round, int) else None
    )
    failed_path(out).unlink(missing_ok=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    is_written = write_failure(out, replace(failure, reason=reason))
    if state.kind in ("running", "stale"):
        running_path(out).unlink(missing_ok=True)  # the step that claimed it has ended
    return is_written


def _reason(code: int, environment: Mapping[str, str], *, is_sure: bool) -> str:
    granted = [
        f"{environment[name]} MB a {what}"
        for name, what in (("SLURM_MEM_PER_CPU", "CPU"), ("SLURM_MEM_PER_NODE", "node"))
        if environment.get(name)
    ]
    had = f"Slurm had granted {granted[0]}" if granted else "Slurm had granted what the partition gives"
    if is_sure:
        return f"{OUT_OF_MEMORY}: {had}; ask for more (ppfl submit --mem, sbatch --mem-per-cpu)"
    if code == _KILLED + signal.SIGKILL:
        return f"the ranks were killed by SIGKILL {_MAYBE} {had}"
    return describe_exit(_KILLED - code if _KILLED < code < _KILLED + signal.NSIG else code).replace(
        "the process", "the step"
    )


def _says_sacct(job: str) -> bool:
    """Ask the accounting, where there is one."""
    command = ["sacct", "--noheader", "--parsable2", f"--jobs={job}", "--format=State"]
    try:
        return OUT_OF_MEMORY in ask(command, seconds=_TIMEOUT_SECONDS)
    except NoAnswerError:
        return False


def _says_slurmstepd(job: str) -> bool:
    """Look for its words at the end of our own log, into which srun hands them on."""
    try:
        if not stat.S_ISREG(os.fstat(2).st_mode):
            return False
        with open("/proc/self/fd/2", "rb") as log:  # noqa: PTH123, a file that is open already
            log.seek(max(0, os.fstat(2).st_size - _TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
    except OSError:
        return False
    return any(f"StepId={job}." in line and _WORDS.search(line) for line in lines)
