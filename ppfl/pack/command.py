"""`ppfl pack`: every cell of a grid to a file of its own, in as many processes as there are cores."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ppfl.config.grid import show_varying
from ppfl.config.scope import origins_in
from ppfl.core.errors import UserError
from ppfl.core.numbers import whole_number
from ppfl.jobs.failures import Failure, remove_failure, write_failure
from ppfl.jobs.leftovers import clear_folder
from ppfl.jobs.starts import refuse_missing_starts
from ppfl.jobs.states import state_of, states_of
from ppfl.jobs.stop_requests import PackRequests
from ppfl.jobs.stopping import ON_REQUEST, STOPPED, STOPPED_ON_REQUEST
from ppfl.outside.origin import of_this_process
from ppfl.pack.budget import beginning_of_array, place_in_array
from ppfl.pack.run_queue import CLAIMED, RunQueue
from ppfl.pack.scheduler import run_tasks
from ppfl.results.layout import FINISHED, failed_path

if TYPE_CHECKING:
    from collections import Counter
    from pathlib import Path

    from ppfl.config.grid import Cell
    from ppfl.jobs.launcher import LaunchedAs
    from ppfl.pack.budget import Budget
    from ppfl.pack.run_queue import Executor
    from ppfl.pack.scheduler import Outcome

LINE_INTERVAL_SECONDS = 5.0


@dataclass(frozen=True)
class Packed:
    """What became of the runs: how many are complete, diverged, already done, failed, stopped, left."""

    counts: Counter[str]
    was_asked_to_stop: bool = False
    """For good: not to go on later by itself."""

    @property
    def is_unfinished(self) -> bool:
        """True when the next pack has something to continue."""
        return bool(self.counts["stopped"] + self.counts["left"])

    @property
    def exit_code(self) -> int:
        """Return how `ppfl pack` ends."""
        if self.is_unfinished and not self.was_asked_to_stop:
            return STOPPED
        if self.is_unfinished or self.counts[ON_REQUEST]:
            return STOPPED_ON_REQUEST
        return 1 if self.counts["failed"] else 0


def choose_part(cells: Mapping[str, Cell], part: str | None) -> dict[str, Cell]:
    """Return every N-th run of the grid for "K/N", beginning with the K-th; all for None.

    Raises UserError for what is no part.
    """
    if part is None:
        return dict(cells)
    number, of = (whole_number(text) for text in part.partition("/")[::2])
    if number is None or of is None or not 1 <= number <= of:
        raise UserError(f"--part {part}: allowed: K/N with whole numbers 1 ≤ K ≤ N, e.g. 2/10")
    return dict(list(cells.items())[number - 1 :: of])


def pack(
    cells: Mapping[str, Cell],
    folder: Path,
    jobs: int,
    tell: Callable[[str], None],
    budget: Budget,
    launched: LaunchedAs,
    executor: Executor,
    *,
    waits: bool = True,
    environment_of: Callable[[int], Mapping[str, str]] = lambda child: {},
) -> Packed:
    """Run every cell to `<folder>/<digest>.h5`.

    A failed run leaves `<digest>.h5.failed.json`, which a later success removes. Other packs may be at work in the same
    folder, also the other processes of a launcher: they share the runs, and each ends when all runs have ended, or,
    unless it waits, when no run is free. `tell` is given lines of progress. `environment_of`: what the children 0, 1, …
    find in their environment. Raises UserError for a folder that cannot be made, and where
    what a run starts from is not there.
    """
    origins = {key: origin for cell in cells.values() for key, origin in origins_in(cell.config).items()}
    if refused := of_this_process(origins):
        raise UserError(f"{refused}; a pack has several processes")
    refuse_missing_starts((cell.config, folder / f"{digest}.h5") for digest, cell in cells.items())
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder}: cannot make this folder: {error.strerror}") from error
    # once a pack, not once a run: it reads the whole folder
    clear_folder(folder)
    size = launched.size or 1
    beginning = launched.rank / size if size > 1 else place_in_array()
    queue = RunQueue(cells, folder, jobs, beginning, executor, waits=waits, began_at=beginning_of_array())
    requests = PackRequests(folder, queue.began_at)
    budget.heed(requests)
    progress = _Progress(queue, len(cells), tell)
    loads_torch = [origin.where for origin in origins.values() if origin.loads_torch]
    if loads_torch:
        tell(f"{loads_torch[0]} loads torch when it is imported: processes are started by spawn, which takes longer")
    begun = run_tasks(
        queue, jobs, executor.make_work, budget, progress.show_waiting,
        spawns=bool(loads_torch), environment_of=environment_of,
    )  # fmt: skip
    for outcome in begun:
        _settle(queue, cells[outcome.key], folder, outcome, tell)
        progress.show()
    queue.settle()
    return Packed(queue.counts, requests.found is not None and not requests.found.requeue)


def _settle(queue: RunQueue, cell: Cell, folder: Path, outcome: Outcome, tell: Callable[[str], None]) -> None:
    """Count an outcome; note a failure unless whoever failed did."""
    out = folder / f"{cell.digest}.h5"
    if outcome.answer == CLAIMED:  # whoever claimed it first may have finished it by now
        queue.put_back(cell.digest)
        return
    if outcome.answer is not None:
        if outcome.answer in (*FINISHED, "already done"):
            remove_failure(out)
        queue.counts[outcome.answer] += 1
        return
    kind = state_of(out).kind
    # a claim may also be what our own dead attempt has left on another host: believed once
    if kind == "running" and queue.doubts(cell.digest):
        queue.put_back(cell.digest)
        return
    queue.counts["failed"] += 1
    if kind != "done":  # a complete result may still lack what was asked for, and has not failed for that
        varying = show_varying(cell.varying)
        write_failure(out, Failure(digest=cell.digest, cell=varying, reason=outcome.reason, log_tail=outcome.log_tail))
    tell(f"failed: {cell}: {outcome.reason}" + (f" ({failed_path(out)})" if kind != "done" else ""))


class _Progress:
    """Tells how far a pack is, at most every 5 seconds."""

    def __init__(self, queue: RunQueue, total: int, tell: Callable[[str], None]) -> None:
        self._queue = queue
        self._total = total
        self._tell = tell
        self._done_before = queue.counts.total()
        self._started_at = self._last_line_at = time.monotonic()
        self._waits_for: set[Path] = set()

    def show(self) -> None:
        """Tell, unless the last line is too recent; runs that others did tell nothing about the time that is left."""
        now, done = time.monotonic(), self._queue.counts.total()
        if now - self._last_line_at < LINE_INTERVAL_SECONDS or done == self._total:
            return
        self._last_line_at = now
        computed, elsewhere = done - self._done_before, len(self._queue.elsewhere)
        words = [f"{done}/{self._total} runs", f"{self._queue.counts['failed']} failed"]
        words += [f"{elsewhere} at work elsewhere"] if elsewhere else []
        if computed:
            words.append(f"{(now - self._started_at) / computed * (self._total - done):.0f} s left")
        self._tell(", ".join(words))

    def show_waiting(self) -> None:
        """Tell, each time that it has become so, that all runs that are left are others' and who they are."""
        others = set(self._queue.elsewhere)
        if others and others != self._waits_for:
            who = sorted({_owner(state.facts) for state in states_of(others).values() if state.kind == "running"})
            named = f" ({', '.join(who[:3])})" if who else ""
            self._tell(f"{len(others)} runs are at work elsewhere{named}: waiting")
        self._waits_for = others


def _owner(facts: Mapping[str, Any]) -> str:
    job = f"job {facts['job']} " if facts.get("job") else ""
    return f"{job}on {facts.get('host', 'an unknown host')}"
