"""`ppfl pack`: every cell of a grid to a file of its own, in as many processes as there are cores."""

from __future__ import annotations

import fcntl
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ppfl.core.errors import UserError
from ppfl.launcher import launched_as
from ppfl.pack.scheduler import Outcome, Task, run_tasks

if TYPE_CHECKING:
    from ppfl.config import Config
    from ppfl.grid import Cell

LINE_INTERVAL_SECONDS = 5.0


@dataclass(frozen=True)
class RunOfCell:
    """What a child is told: which configuration, and where the result goes."""

    config: Config
    out: Path


def default_jobs() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def pack(cells: Mapping[str, Cell], folder: Path, jobs: int, tell: Callable[[str], None]) -> Counter[str]:
    """Run every cell to `<folder>/<digest>.h5`; return how many are complete, diverged, already done and failed.

    A failed cell leaves `<folder>/<digest>.failed.txt`, which a later success removes. `tell` is given lines of
    progress. Raises UserError under a launcher that started several processes, for a folder that cannot be made, and
    for one that another pack is at work in.
    """
    if launched_as().size != 1:
        raise UserError("ppfl pack is one process that starts its own: start it without mpiexec, or with -n 1")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder}: cannot make this folder: {error.strerror}") from error

    tasks = [
        Task(digest, _affinity(cell.config), RunOfCell(cell.config, folder / f"{digest}.h5"))
        for digest, cell in cells.items()
    ]
    progress = _Progress(len(tasks), tell)
    with _alone_in(folder):
        for outcome in run_tasks(tasks, jobs, make_work="ppfl.pack.cells:make_work"):
            progress.add(outcome.answer or "failed")
            _note_failure(folder, cells[outcome.key], outcome, tell)
    return progress.counts


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Refuse a folder that another pack is at work in: both would write the same files."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # a file system without locks is no reason not to work
        with suppress(OSError):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(f"--out {folder}: another ppfl pack is at work there; wait, or take another") from error
        yield
    finally:
        os.close(descriptor)


def _affinity(config: Config) -> str:
    """Return the same text for cells that can share a problem."""
    return repr(config.model_dump(mode="json", include={"problem", "byzantine", "seed", "precision", "engine"}))


def _note_failure(folder: Path, cell: Cell, outcome: Outcome, tell: Callable[[str], None]) -> None:
    note = folder / f"{cell.digest}.failed.txt"
    if outcome.answer is not None:
        note.unlink(missing_ok=True)
        return
    tell(f"failed: {cell}: {outcome.failure.splitlines()[0]} ({note})")
    note.write_text(f"{cell}\n{outcome.failure}\n", encoding="utf-8")


class _Progress:
    """Counts outcomes and tells of them, at most every 5 seconds."""

    def __init__(self, total: int, tell: Callable[[str], None]) -> None:
        self.counts: Counter[str] = Counter()
        self._total = total
        self._tell = tell
        self._started_at = self._last_line_at = time.monotonic()

    def add(self, status: str) -> None:
        """Count one outcome; those that were done already tell nothing about the time that is left."""
        self.counts[status] += 1
        now, done = time.monotonic(), self.counts.total()
        if now - self._last_line_at < LINE_INTERVAL_SECONDS or done == self._total:
            return
        self._last_line_at = now
        computed = done - self.counts["already done"]
        left = (now - self._started_at) / computed * (self._total - done) if computed else 0.0
        self._tell(f"{done}/{self._total} cells, {self.counts['failed']} failed, {left:.0f} s left")
