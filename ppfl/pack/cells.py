"""Runs of a grid, computed in a process of its own group of one rank."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from ppfl.comm.solo import SoloCommunicator
from ppfl.core.content import content
from ppfl.jobs.attempt import Caller
from ppfl.jobs.claim import is_claimed
from ppfl.jobs.stopping import StopSignals
from ppfl.pack.run_queue import CLAIMED
from ppfl.pack.together import run_together
from ppfl.runs.experiment import run
from ppfl.runs.progress import Silent, show_warnings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ppfl.interfaces.placement import Placement
    from ppfl.interfaces.problem import Problem, ProblemSettings
    from ppfl.pack.run_queue import RunOfCell
    from ppfl.pack.scheduler import Work


class LastProblem:
    """Builds problems and keeps the last one: cells that differ in their method alone share it.

    Problems are immutable once they are built, so a run cannot tell whether its problem was built for it.
    """

    def __init__(self) -> None:
        self._key: tuple[object, ...] | None = None
        self._problem: Problem | None = None

    def __call__(self, settings: ProblemSettings, placement: Placement, clients_per_chunk: int | None) -> Problem:
        """Return `settings.build(placement, clients_per_chunk)`, perhaps built earlier."""
        facts = [getattr(placement, field.name) for field in fields(placement) if field.name != "communicator"]
        key = (content(settings), *facts, clients_per_chunk)
        if self._problem is None or key != self._key:
            # the communicator is left out of the comparison: in here there is but one process
            self._problem = None  # two large problems need not fit into memory
            self._problem = settings.build(placement, clients_per_chunk)
            self._key = key
        return self._problem


def make_work() -> Work:
    """Return the function that runs cells in this process; called once in every child."""
    show_warnings(0)
    build_problem = LastProblem()
    wants_stop = StopSignals(can_be_interrupted=False)

    def alone(one: RunOfCell) -> str | Exception:
        caller = Caller(one.cell, wants_stop)
        try:
            return run(one.config, one.out, Silent(), SoloCommunicator(), build_problem, caller)
        except Exception as error:  # noqa: BLE001, the others of the batch go on
            return CLAIMED if is_claimed(error) else error

    def work(runs: Sequence[RunOfCell]) -> Sequence[str | Exception]:
        if len(runs) == 1:
            return [alone(runs[0])]
        answers = run_together(runs, build_problem, wants_stop)
        return [alone(one) if answer is None else answer for one, answer in zip(runs, answers, strict=True)]

    return work
