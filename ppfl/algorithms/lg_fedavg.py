"""Personal layers at the input, trained together with the shared ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from ppfl.algorithms._simultaneous import Simultaneous
from ppfl.core.local_training import require_local_side

if TYPE_CHECKING:
    from ppfl.core.method import ServerOptimizer
    from ppfl.core.problem import Problem


class LGFedAvg(Simultaneous):
    """(θ_m, w_m) ← (θ_m, w_m) − η ∇f_B(θ_m, w_m), H times, w the first layers;  θ ← θ − direction(θ − θ_m).

    Source: Liang et al., "Think Locally, Act Globally", 2020, Algorithm 1. It is `fedsim`, for splits that keep the
    input side local.
    """

    name: Literal["lg_fedavg"]

    def resolve(self, problem: Problem, participation: float, optimizer: ServerOptimizer) -> Self:
        """Fill in `theory`; refuse splits whose local layers are not at the input side."""
        require_local_side(self.name, problem, "input", "fedsim")
        return super().resolve(problem, participation, optimizer)
