"""Exact fine-tuning, in closed form."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ppfl.core.method import FineTuner, Tuned

if TYPE_CHECKING:
    from ppfl.core.objective import Objective
    from ppfl.core.problem import Problem
    from ppfl.core.types import Data, Draws, Params


class Exact(FineTuner):
    """w ← w*(θ) = argmin_w f(θ, w).

    Source: Mishchenko et al., TMLR 2025, the fine-tuning of Algorithm 1 (FFGG) solved exactly. The start does not
    matter. Where the minimizer is not unique, the one of least norm.
    """

    name: Literal["exact"]
    solves_exactly: ClassVar[bool] = True

    def tune(self, objective: Objective, shared: Params, local: Params, data: Data, draws: Draws) -> Tuned:
        """Return w*(θ), for no gradient: it solves a linear system instead."""
        return Tuned(objective.exact_local(shared, data), 0.0)

    def resolve(self, problem: Problem) -> FineTuner:
        """Refuse problems without a closed form."""
        if reason := problem.objective.needs_iterations:
            raise ValueError(
                f"fine_tuner.name: 'exact' needs local parameters with a closed form, and {reason}; "
                "allowed: problem quadratic, problem least_squares with the last layer local, an iterative fine-tuner"
            )
        return self
