"""An objective whose parameters begin elsewhere than at its own initial law."""

from __future__ import annotations

import copy
from functools import cache
from typing import TYPE_CHECKING, Protocol, TypeVar

from ppfl.interfaces.objective import FixedAtStart, Objective

if TYPE_CHECKING:
    from ppfl.core.types import Params
    from ppfl.interfaces.problem import Problem

AnyProblem = TypeVar("AnyProblem", bound="Problem")


class Beginning(Protocol):
    """Values that take the place of drawn ones, of the names that it knows."""

    def shared(self, drawn: Params) -> Params:
        """Return what θ, or a part of it, begins at; also for parameters that stay as they begin."""
        ...

    def local(self, client: int, drawn: Params) -> Params:
        """Return what w_m begins at."""
        ...


class _Started(Objective):
    """The first base of a class whose other one is that of the objective."""

    beginning: Beginning

    def init_shared(self) -> Params:
        """θ at the start, the same on every rank."""
        return self.beginning.shared(super().init_shared())  # type: ignore[safe-super]  # of the other base

    def init_local(self, client: int) -> Params:
        """w_m at the start."""
        return self.beginning.local(client, super().init_local(client))  # type: ignore[safe-super]

    def __eq__(self, other: object) -> bool:
        # others of the same class may begin elsewhere
        return self is other

    def __hash__(self) -> int:
        return id(self)


@cache
def _kind(kind: type[Objective]) -> type[Objective]:
    # a class, as the engine asks objectives what they are; the same one for all runs that may be computed together
    return type(f"Started{kind.__name__}", (_Started, kind), {"__doc__": kind.__doc__})


def started(problem: AnyProblem, beginning: Beginning) -> AnyProblem:
    """Return the same problem, whose parameters begin as told: what `init_shared` and `init_local` return, also of the
    problem with everything local. What is drawn afresh in a round stays random."""
    objective, made = copy.copy(problem.objective), copy.copy(problem)
    objective.__class__ = _kind(type(problem.objective))
    assert isinstance(objective, _Started)
    objective.beginning = beginning
    if isinstance(objective, FixedAtStart):
        objective.begin_anew(beginning)
    scores = copy.copy(problem.scores)
    scores.objective = objective
    # problems are frozen, and of a class that need not have its fields as arguments
    object.__setattr__(made, "objective", objective)
    object.__setattr__(made, "scores", scores)
    return made
