"""One cell of a grid, run in a process of its own group of one rank."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from ppfl.comm.solo import SoloCommunicator
from ppfl.experiment import run
from ppfl.progress import Silent, show_warnings

if TYPE_CHECKING:
    from ppfl.core.problem import Placement, Problem, ProblemSettings
    from ppfl.pack.command import RunOfCell
    from ppfl.pack.scheduler import Work


class LastProblem:
    """Builds problems and keeps the last one: cells that differ in their method alone share it.

    Problems are immutable once they are built, so a run cannot tell whether its problem was built for it.
    """

    def __init__(self) -> None:
        self._key: tuple[object, ...] | None = None
        self._problem: Problem | None = None

    def __call__(self, settings: ProblemSettings, placement: Placement, clients_per_chunk: int) -> Problem:
        """Return `settings.build(placement, clients_per_chunk)`, perhaps built earlier."""
        facts = [getattr(placement, field.name) for field in fields(placement) if field.name != "communicator"]
        key = (settings.model_dump_json(), *facts, clients_per_chunk)
        if self._problem is None or key != self._key:
            self._problem = None  # two large problems need not fit into memory
            self._problem = settings.build(placement, clients_per_chunk)
            self._key = key
        return self._problem


def make_work() -> Work:
    """Return the function that runs cells in this process; called once in every child."""
    show_warnings(0)
    build_problem = LastProblem()

    def work(cell: RunOfCell) -> str:
        return run(cell.config, cell.out, Silent(), SoloCommunicator(), build_problem)

    return work
