"""A penalty on the shared parameters instead of averaging, and a coin instead of rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from ppfl.algorithms._penalized_mixture import PenalizedMixture
from ppfl.core.local_training import require_local_parameters

if TYPE_CHECKING:
    from ppfl.core.method import ServerOptimizer
    from ppfl.core.problem import Problem


class L2GDTheta(PenalizedMixture):
    """(θ_m, w_m) ← (θ_m, w_m) − α/(M(1−p)) ∇f_m(θ_m, w_m) with probability 1 − p, else θ_m ← θ_m − αλ/(Mp) (θ_m − θ̄).

    Source: Hanzely & Richtárik, 2020, Algorithm 1, its penalty on θ_m alone: `l2gd`, but never without local
    parameters. (θ_m, w_m) is deployed.
    """

    name: Literal["l2gd_theta"]

    def resolve(self, problem: Problem, participation: float, optimizer: ServerOptimizer) -> Self:
        """Fill in `theory`; refuse problems where everything is shared, and server optimizers."""
        require_local_parameters(self.name, problem, "l2gd")
        return super().resolve(problem, participation, optimizer)
