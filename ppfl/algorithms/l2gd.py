"""A penalty instead of averaging, and a coin instead of rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from ppfl.algorithms._penalized_mixture import PenalizedMixture
from ppfl.core.local_training import refuse_local_parameters

if TYPE_CHECKING:
    from ppfl.core.method import ServerOptimizer
    from ppfl.core.problem import Problem


class L2GD(PenalizedMixture):
    """x_m ← x_m − α/(M(1−p)) ∇f_m(x_m) with probability 1 − p, else x_m ← x_m − αλ/(Mp) (x_m − x̄);  x̄ the mean.

    Source: Hanzely & Richtárik, 2020, Algorithm 1, for min (1/M) Σ f_m(x_m) + λ/(2M) Σ ‖x_m − x̄‖². Everything is
    shared, and x_m is deployed.
    """

    name: Literal["l2gd"]

    def resolve(self, problem: Problem, participation: float, optimizer: ServerOptimizer) -> Self:
        """Fill in `theory`; refuse local parameters and server optimizers."""
        refuse_local_parameters(self.name, problem, "l2gd_theta")
        return super().resolve(problem, participation, optimizer)
