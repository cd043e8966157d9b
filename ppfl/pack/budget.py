"""When a pack has to end: before the wall clock of its job does, or on a signal."""

from __future__ import annotations

import os
import time
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from ppfl.core.numbers import whole_number
from ppfl.jobs.slurm import NoAnswerError, ask

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

STOP_SECONDS = 15.0
"""What runs are given to save themselves before the time is over; a fifth of the time when that is less."""

Phase = Literal["work", "stop", "end"]


class Budget:
    """Says how long to go on. `phase` becomes "stop" shortly before the end, and "end" when the time is over."""

    def __init__(self, seconds: float | None, wants_stop: Callable[[], bool] = lambda: False) -> None:
        """`wants_stop` says when to end earlier: a signal has come, with which schedulers announce the end."""
        now = time.monotonic()
        self._end = None if seconds is None else now + seconds
        # by the clock of this process, which nobody sets back
        self._stop = None if seconds is None else now + seconds - min(STOP_SECONDS, seconds / 5)
        self._longest = 0.0
        self._wants_stop = wants_stop
        self._is_asked: Callable[[], bool] = lambda: False

    def heed(self, is_asked: Callable[[], bool]) -> None:
        """Stop when this says yes, too."""
        self._is_asked = is_asked

    @property
    def phase(self) -> Phase:
        """Return what is to be done now."""
        now = time.monotonic()
        if self._end is not None and now >= self._end:
            return "end"
        is_over = self._wants_stop() or (self._stop is not None and now >= self._stop) or self._is_asked()
        return "stop" if is_over else "work"

    def took(self, seconds: float) -> None:
        """Learn how long a task took."""
        self._longest = max(self._longest, seconds)

    def has_time(self) -> bool:
        """Say whether one more task is likely to end in time, going by the longest so far; the first one is tried."""
        return self._stop is None or time.monotonic() + self._longest < self._stop


def seconds_left_of_job(environment: Mapping[str, str] = os.environ) -> float | None:
    """Return how long the Slurm job around this process may go on; None outside of one, or without a limit."""
    job = environment.get("SLURM_JOB_ID", "")
    if not job:
        return None
    end = whole_number(environment.get("SLURM_JOB_END_TIME", ""))
    if end is not None:
        # Slurm says the time of day; what is over already still gets a second, to save
        return max(1.0, end - time.time())
    asked = _time_of_job(job, "%e")
    return None if asked is None else max(1.0, asked - time.time())


def beginning_of_array(environment: Mapping[str, str] = os.environ) -> float | None:
    """Return when the job array around this process was submitted: its tasks do one work, whenever each begins.

    None outside of one, or when Slurm does not tell.
    """
    job = environment.get("SLURM_JOB_ID", "")
    return _time_of_job(job, "%V") if job and "SLURM_ARRAY_TASK_ID" in environment else None


def place_in_array(environment: Mapping[str, str] = os.environ) -> float:
    """Return where between the first and the last task of a job array this one stands, in [0, 1); 0 outside of one."""
    names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX")
    number, first, last = (whole_number(environment.get(name, "")) for name in names)
    if number is None or first is None or last is None or not first <= number <= last:
        return 0.0
    return (number - first) / (last - first + 1)


def _time_of_job(job: str, field: str) -> float | None:
    """Return a time that squeue knows of a job, in seconds of the epoch."""
    try:
        answer = ask(["squeue", "--noheader", "--jobs", job, "--format", field])
        return datetime.fromisoformat(answer.split()[0]).timestamp()
    except (NoAnswerError, ValueError, IndexError):  # "NONE" and "N/A" among them
        return None
