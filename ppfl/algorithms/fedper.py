"""Personal layers at the output, trained together with the shared ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from ppfl.algorithms._simultaneous import Simultaneous
from ppfl.core.local_training import require_local_side

if TYPE_CHECKING:
    from ppfl.core.method import ServerOptimizer
    from ppfl.core.problem import Problem


class FedPer(Simultaneous):
    """(θ_m, w_m) ← (θ_m, w_m) − η ∇f_B(θ_m, w_m), H times, w the last layers;  θ ← θ − direction(θ − θ_m).

    Source: Arivazhagan et al., 2019, Algorithms 1 and 2. It is `fedsim`, for splits that keep the output side local.
    """

    name: Literal["fedper"]

    def resolve(self, problem: Problem, participation: float, optimizer: ServerOptimizer) -> Self:
        """Fill in `theory`; refuse splits whose local layers are not at the output side."""
        require_local_side(self.name, problem, "output", "fedsim")
        return super().resolve(problem, participation, optimizer)
