"""Several small runs as one computation: each leaves what `ppfl.runs.experiment.run` leaves, at a fraction of the time.

Quadratics on a CPU are lanes of one computation from their first round to their last scores. While they run nothing is
written but their claims; they last for seconds, so that a kill costs no more than a checkpoint would save. Networks on
a device go side by side (`ppfl.pack.side_by_side`), each with checkpoints of its own.
"""

from __future__ import annotations

import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING

from ppfl.core.files import names_flushed_together
from ppfl.engine.evaluate import score_stages
from ppfl.engine.lockstep import Lockstep, fits, kind_of, regrouped
from ppfl.engine.scored_runs import rows_of_runs
from ppfl.jobs.attempt import Attempt, Caller
from ppfl.pack.guest import Guest
from ppfl.pack.side_by_side import groups_of, run_side_by_side
from ppfl.runs.experiment import complete, open_recorder, save_parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from ppfl.engine.ledger import Ledger
    from ppfl.engine.run import Run
    from ppfl.pack.run_queue import RunOfCell
    from ppfl.runs.assemble import BuildProblem

_SAVED_AT_ONCE = 4


def run_together(
    runs: Sequence[RunOfCell], build_problem: BuildProblem, wants_stop: Callable[[], bool]
) -> list[str | Exception | None]:
    """Run what can run together; return what `run` would, its exception, CLAIMED, or None for a run that has to run
    alone."""
    guests = [Guest(one, Attempt(one.config, one.out, 1, Caller(one.cell, wants_stop))) for one in runs]
    try:
        ready: set[Path] = set()
        for guest in guests:
            guest.safely(partial(guest.enter, build_problem, ready))
        lanes: dict[object, list[Guest]] = defaultdict(list)
        others = []
        for guest in guests:
            if guest.setup is None or guest.answer is not None:
                continue
            if fits(guest.setup):
                lanes[kind_of(guest.setup)].append(guest)
            else:
                others.append(guest)
        for group in lanes.values():
            if len(group) > 1:
                _compute(group, wants_stop)
        for group in groups_of(others):
            run_side_by_side(group)
    finally:
        for guest in guests:
            guest.attempt.leave()
    return [guest.answer for guest in guests]


def _compute(guests: Sequence[Guest], wants_stop: Callable[[], bool]) -> None:
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


def _save_all(ended: Sequence[tuple[Guest, Run]], num_together: int) -> None:
    """Save step by step, each of all runs: then a folder is flushed once a step, and not twice a run."""

    def save_parameters_of(guest: Guest, member: Run) -> None:
        with _alone(member.ledger):
            save_parameters(guest.run.config, guest.attempt.here, member.setup, member)

    def save_result_of(guest: Guest, member: Run) -> None:
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
    ledger.spent.go_on()
    yield
    ledger.spent.pause()


def _save_result(guest: Guest, member: Run, num_together: int) -> None:
    assert guest.stages is not None
    recorder = open_recorder(guest.attempt, member.setup, num_together)
    recorder.restore(guest.rows)
    recorder.follow_seconds(member.ledger.seconds)
    complete(member.setup, member, guest.stages, recorder)


def _deliver(guest: Guest, member: Run) -> None:
    guest.attempt.deliver()
    guest.answer = member.status
    if guest.attempt.log is not None:
        guest.attempt.log.write(f"ppfl: {member.status}\n")
