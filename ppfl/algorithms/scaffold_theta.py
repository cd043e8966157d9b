"""Stochastic controlled averaging of the shared parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from ppfl.algorithms._control_variates import ControlVariates
from ppfl.core.local_training import require_local_parameters

if TYPE_CHECKING:
    from ppfl.core.method import ServerOptimizer
    from ppfl.core.problem import Problem


class ScaffoldTheta(ControlVariates):
    """θ_m ← θ_m − η (∇_1 f_B(θ_m, w_m) − c_m + c), w_m ← w_m − η ∇_2 f_B(θ_m, w_m), H times from (θ, w_m).

    Source: Karimireddy et al., ICML 2020, Algorithm 1 with option II, its control variates on θ alone: `scaffold`,
    but never without local parameters.
    """

    name: Literal["scaffold_theta"]

    def resolve(self, problem: Problem, participation: float, optimizer: ServerOptimizer) -> Self:
        """Fill in `theory`; refuse problems where everything is shared."""
        require_local_parameters(self.name, problem, "scaffold")
        return super().resolve(problem, participation, optimizer)
