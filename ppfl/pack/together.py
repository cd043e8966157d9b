"""Several small runs as one computation: each leaves what `ppfl.runs.experiment.run` leaves, at a fraction of the time.

While they run nothing is written but their claims; they last for seconds, so that a kill costs no more than a
checkpoint would save.
"""

from __future__ import annotations

import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from ppfl.comm.solo import SoloCommunicator
from ppfl.core.files import names_flushed_together
from ppfl.engine.evaluate import score_stages
from ppfl.engine.lockstep import Lockstep, fits, kind_of, regrouped
from ppfl.engine.scored_runs import rows_of_runs
from ppfl.jobs.attempt import Attempt, Caller
from ppfl.jobs.claim import is_claimed
from ppfl.pack.run_queue import CLAIMED
from ppfl.results.layout import apart_path, checkpoint_path
from ppfl.runs.assemble import build
from ppfl.runs.experiment import complete, open_recorder, save_parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import numpy as np

    from ppfl.engine.evaluate import Stages
    from ppfl.engine.ledger import Ledger
    from ppfl.engine.run import Run
    from ppfl.engine.setup import Setup
    from ppfl.pack.run_queue import RunOfCell
    from ppfl.runs.assemble import BuildProblem

_SAVED_AT_ONCE = 4


@dataclass(eq=False)
class _Guest:
    """One of the runs, from its claim to its result."""

    run: RunOfCell
    attempt: Attempt
    setup: Setup | None = None
    answer: str | Exception | None = None
    """None: not done, and to be done alone."""
    start_seconds: float = 0.0
    """That it took to enter and to build it."""
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    """Scores and costs, (rounds, …), and "round"."""
    stages: Stages | None = None

    def safely(self, action: Callable[[], None]) -> None:
        """Do something that may fail; a failure is noted, and is this run's alone."""
        try:
            action()
        except Exception as error:  # noqa: BLE001, one run must not take the others along
            self.attempt.note(error, 0)
            self.answer = CLAIMED if is_claimed(error) else error


def run_together(
    runs: Sequence[RunOfCell], build_problem: BuildProblem, wants_stop: Callable[[], bool]
) -> list[str | Exception | None]:
    """Run what can run together; return what `run` would, its exception, CLAIMED, or None for a run that has to run
    alone."""
    guests = [_Guest(one, Attempt(one.config, one.out, 1, Caller(one.cell))) for one in runs]
    try:
        ready: set[Path] = set()
        for guest in guests:
            guest.safely(partial(_enter, guest, build_problem, ready))
        groups: dict[object, list[_Guest]] = defaultdict(list)
        for guest in guests:
            if guest.setup is not None and guest.answer is None and fits(guest.setup):
                groups[kind_of(guest.setup)].append(guest)
        for group in groups.values():
            if len(group) > 1:
                _compute(group, wants_stop)
    finally:
        for guest in guests:
            guest.attempt.leave()
    return [guest.answer for guest in guests]


def _enter(guest: _Guest, build_problem: BuildProblem, ready: set[Path]) -> None:
    out = guest.run.out
    if checkpoint_path(out).exists() or checkpoint_path(apart_path(out)).exists():
        return
    found = guest.attempt.enter(ready)
    # tried once for all: a file system takes as long for such a file as for all others that a run makes
    ready.add(out.parent)
    if found == "already done":
        guest.answer = "already done"
        return
    began = time.perf_counter()
    guest.attempt.told(0)
    guest.setup = build(guest.run.config, SoloCommunicator(), build_problem)
    guest.start_seconds = time.perf_counter() - began


def _compute(guests: Sequence[_Guest], wants_stop: Callable[[], bool]) -> None:
    for guest in guests:
        guest.attempt.open_log().write(f"ppfl: computed together with {len(guests) - 1} other runs\n")
    began = time.perf_counter()
    lockstep = Lockstep([guest.setup for guest in guests if guest.setup is not None])
    scores = []
    for scored in lockstep.run(wants_stop):
        scores.append(scored)
        for number in scored.numbers:
            guests[number].attempt.told(scored.round)
    for guest, rows in zip(guests, rows_of_runs(scores, len(guests)), strict=True):
        guest.rows = rows
    ended = []
    for guest, member in zip(guests, lockstep.runs, strict=True):
        if member.status == "running":
            guest.answer = "stopped"
        else:
            ended.append((guest, member))
    if not ended:
        return
    of_stages = score_stages(regrouped([member for _, member in ended]))
    _share_rest(time.perf_counter() - began, [run.ledger for run in lockstep.runs])
    for guest, member in ended:
        member.ledger.spent.seconds["start"] = guest.start_seconds
        member.ledger.spent.before += guest.start_seconds

    for (guest, _), stages in zip(ended, of_stages, strict=True):
        guest.stages = stages
    _save_all(ended, len(guests))


def _save_all(ended: Sequence[tuple[_Guest, Run]], num_together: int) -> None:
    """Save step by step, each of all runs: then a folder is flushed once a step, and not twice a run."""

    def save_parameters_of(guest: _Guest, member: Run) -> None:
        with _alone(member.ledger):
            save_parameters(guest.run.config, guest.attempt.here, member.setup, member)

    def save_result_of(guest: _Guest, member: Run) -> None:
        with _alone(member.ledger):
            _save_result(guest, member, num_together)

    # files wait for the disk: side by side it flushes several at once
    with ThreadPoolExecutor(_SAVED_AT_ONCE) as threads:
        for step in (save_parameters_of, save_result_of):
            with names_flushed_together():
                tasks = [
                    partial(copy_context().run, guest.safely, partial(step, guest, member))
                    for guest, member in ended
                    if guest.answer is None
                ]
                list(threads.map(lambda task: task(), tasks))
    for guest, member in ended:
        if guest.answer is None:
            guest.safely(partial(_deliver, guest, member))


def _share_rest(seconds: float, ledgers: Sequence[Ledger]) -> None:
    """Give each run an equal share of what has no name of the seconds that all of them took together."""
    named = [sum(value for name, value in ledger.seconds().items() if name != "rest") for ledger in ledgers]
    for ledger, of_run in zip(ledgers, named, strict=True):
        ledger.spent.before = of_run + (seconds - sum(named)) / len(ledgers)


@contextmanager
def _alone(ledger: Ledger) -> Iterator[None]:
    """Count the seconds of what is done inside for one run alone."""
    ledger.spent.began = time.perf_counter()
    yield
    ledger.spent.before, ledger.spent.began = ledger.spent.total, None


def _save_result(guest: _Guest, member: Run, num_together: int) -> None:
    assert guest.stages is not None
    recorder = open_recorder(guest.attempt, member.setup, num_together)
    recorder.restore(guest.rows)
    recorder.follow_seconds(member.ledger.seconds)
    complete(member.setup, member, guest.stages, recorder)


def _deliver(guest: _Guest, member: Run) -> None:
    guest.attempt.deliver()
    guest.answer = member.status
    if guest.attempt.log is not None:
        guest.attempt.log.write(f"ppfl: {member.status}\n")
