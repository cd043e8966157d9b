"""Exact fine-tuning, in closed form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ppfl.interfaces.method import ExactFineTuner, FineTuner

if TYPE_CHECKING:
    from ppfl.core.types import Data, Params
    from ppfl.interfaces.objective import Objective
    from ppfl.interfaces.problem import Problem


class Exact(ExactFineTuner):
    """w ← w*(θ) = argmin_w f(θ, w).

    Source: Mishchenko et al., TMLR 2025, the fine-tuning of Algorithm 1 (FFGG) solved exactly. The start does not
    matter. Where the minimizer is not unique, the one of least norm.
    """

    name: Literal["exact"]

    def solve(self, objective: Objective, shared: Params, data: Data) -> Params:
        """Return w*(θ), by a linear system."""
        return objective.exact_local(shared, data)

    def resolve(self, problem: Problem) -> FineTuner:
        """Refuse problems without a closed form."""
        if reason := problem.objective.needs_iterations:
            raise ValueError(
                f"fine_tuner.name: 'exact' needs local parameters with a closed form, and {reason}; "
                "allowed: problem quadratic, problem least_squares with the last layer local, an iterative fine-tuner"
            )
        return self
