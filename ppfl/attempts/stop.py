"""Asking runs to save their state and to end, and telling what became of them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from ppfl.attempts.find import Meant, jobs, results_of_job
from ppfl.core.errors import UserError
from ppfl.jobs.slurm import NoAnswerError, ask
from ppfl.jobs.states import states_of
from ppfl.jobs.stop_requests import ask_packs, ask_run, forget_packs, forget_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ppfl.jobs.states import RunState

_LOOK_SECONDS = 0.5
_WORDS = {
    "stopped": "stopped with everything saved",
    "done": "ended by itself",
    "stale": "its process is gone; the next start goes on from the last checkpoint",
    "missing": "given up without a checkpoint, as runs that a pack computes together are; seconds of work",
}


class Stopping:
    """The runs that were asked to stop, until each has."""

    def __init__(self, requeue: bool, tell: Callable[[str], None]) -> None:
        self._requeue = requeue
        self._tell = tell
        self._open: dict[Path, str] = {}
        self.num_asked = 0

    @property
    def open(self) -> list[Path]:
        """Return the runs that still compute."""
        return list(self._open)

    def look(self, results: Iterable[Path]) -> None:
        """Ask those that are at work now and were not asked yet; tell which of the others have ended."""
        states = states_of(dict.fromkeys((*results, *self._open)))
        for out, token in list(self._open.items()):
            # another token is another attempt: the one that was asked has ended
            if states[out].kind != "running" or states[out].facts.get("token") != token:
                del self._open[out]
                self._tell(f"{out}: {_become(states[out])}")
                if states[out].kind == "done":
                    forget_run(out)
        for out, state in states.items():
            if state.kind == "running" and out not in self._open:
                self._ask(out, state)

    def _ask(self, out: Path, state: RunState) -> None:
        token, job = str(state.facts.get("token", "")), str(state.facts.get("job", ""))
        ask_run(out, token=token, job=job, requeue=self._requeue)
        self._open[out] = token
        self.num_asked += 1
        where = f"job {job}" if job else f"process {state.facts.get('pid')}"
        no_job = "; it is in no job that could go on later: start it again" if self._requeue and not job else ""
        self._tell(f"{out}: asked to stop ({where} on {state.facts.get('host')}){no_job}")


def stop(meant: Meant, *, requeue: bool, seconds: float, tell: Callable[[str], None]) -> bool:
    """Ask runs, and the packs of their folders, to stop; return whether all have within so many seconds.

    Raises UserError when nobody can be asked, for a folder that cannot be written say.
    """
    for folder in meant.folders:
        if folder.is_dir():
            ask_packs(folder, requeue=requeue)
    stopping = Stopping(requeue, tell)
    deadline = time.monotonic() + seconds
    while True:
        stopping.look(meant.results)
        if not stopping.open or time.monotonic() >= deadline:
            break
        time.sleep(_LOOK_SECONDS)
    if not stopping.num_asked:
        tell("nobody is at work on that")
    return _told_open(stopping, tell)


def stop_job(number: str, *, requeue: bool, seconds: float, tell: Callable[[str], None]) -> bool:
    """Ask all that a job of Slurm is at work on to stop; return whether the job has ended within so many seconds.

    What waits in the queue has nothing to save and is cancelled, unless the job is to go on later. Raises UserError for
    a job that is not there.
    """
    known = jobs(number)
    if not known:
        raise UserError(f"{number}: no such job in the queue; squeue --me lists yours")
    stopping = Stopping(requeue, tell)
    deadline = time.monotonic() + seconds
    packs: set[tuple[Path, str]] = set()
    is_cancelled, has_refused = requeue, False
    while True:
        found = jobs(number)
        running = [job for job in found if job.is_running]
        results = {out: job.id for job in running for out in results_of_job(job)}
        for folder, job in {(out.parent, job) for out, job in results.items()} - packs:
            ask_packs(folder, requeue=requeue, job=job)
            packs.add((folder, job))
        stopping.look(results)
        # of an array some tasks may be at work and others wait: these would begin while those stop
        if not is_cancelled and any(job.state == "PENDING" for job in found):
            is_cancelled = True
            has_refused = not _cancel_waiting(number, tell)
        if not (running or stopping.open) or time.monotonic() >= deadline:
            break
        time.sleep(_LOOK_SECONDS)
    for folder, job in packs if not running else ():
        forget_packs(folder, job)
    if not any(job.is_running or job.state == "PENDING" for job in known):
        tell(f"job {number}: has ended, {known[0].state}")
    elif running and not stopping.num_asked:
        tell(f"job {number}: computes no run that is known in {running[0].folder}; give a result or a folder instead")
    return _told_open(stopping, tell) and not running and not has_refused


def _cancel_waiting(number: str, tell: Callable[[str], None]) -> bool:
    """Cancel what waits in the queue; return whether Slurm has done so."""
    try:
        ask(["scancel", "--state=PENDING", number])
    except NoAnswerError as error:
        tell(f"job {number}: what waits in the queue stays there: {error}")
        return False
    tell(f"job {number}: what waits in the queue is cancelled")
    return True


def _told_open(stopping: Stopping, tell: Callable[[str], None]) -> bool:
    for out in stopping.open:
        tell(f"{out}: asked, and still computing: it stops after its present round")
    return not stopping.open


def _become(state: RunState) -> str:
    if state.kind == "failed":
        return f"failed: {state.facts.get('reason', '')}"
    return _WORDS.get(state.kind, "stopped, and somebody else goes on with it")
