"""Several small runs as one computation: each leaves what `ppfl.runs.experiment.run` leaves, at a fraction of the time.

While they run nothing is written but their claims; they last for seconds, so that a kill costs no more than a
checkpoint would save.
"""

from __future__ import annotations

import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ppfl.comm.solo import SoloCommunicator
from ppfl.engine.evaluate import score_stages
from ppfl.engine.lockstep import Lockstep, fits, kind_of, regrouped
from ppfl.engine.scored_runs import rows_of_runs
from ppfl.jobs.attempt import Attempt, Caller
from ppfl.jobs.claim import is_claimed
from ppfl.pack.run_queue import CLAIMED
from ppfl.results.layout import apart_path, checkpoint_path
from ppfl.runs.assemble import build
from ppfl.runs.experiment import complete, open_recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
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

    def safely(self, action: Callable[[_Guest], None]) -> None:
        """Do something that may fail; a failure is noted, and is this run's alone."""
        try:
            action(self)
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
            guest.safely(lambda guest: _enter(guest, build_problem, ready))
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

    def save(guest: _Guest, member: Run, stages: Stages) -> None:
        guest.safely(lambda guest: _save(guest, member, stages, len(guests)))

    # they wait for the disk, four times a run: side by side it flushes several at once
    with ThreadPoolExecutor(_SAVED_AT_ONCE) as threads:
        list(threads.map(save, [guest for guest, _ in ended], [member for _, member in ended], of_stages))


def _share_rest(seconds: float, ledgers: Sequence[Ledger]) -> None:
    """Give each run an equal share of what has no name of the seconds that all of them took together."""
    named = [sum(value for name, value in ledger.seconds().items() if name != "rest") for ledger in ledgers]
    for ledger, of_run in zip(ledgers, named, strict=True):
        ledger.spent.before = of_run + (seconds - sum(named)) / len(ledgers)


def _save(guest: _Guest, member: Run, stages: Stages, num_together: int) -> None:
    config, out = guest.run.config, guest.attempt.here
    member.ledger.spent.began = time.perf_counter()  # from here on it is alone
    recorder = open_recorder(guest.attempt, member.setup, num_together)
    recorder.restore(guest.rows)
    recorder.follow_seconds(member.ledger.seconds)
    complete(config, out, member.setup, member, stages, recorder)
    guest.attempt.deliver()
    guest.answer = member.status
    if guest.attempt.log is not None:
        guest.attempt.log.write(f"ppfl: {member.status}\n")
