"""Shared representations under personal heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from ppfl.algorithms._alternating import Alternating
from ppfl.core.local_training import require_local_side

if TYPE_CHECKING:
    from ppfl.core.method import ServerOptimizer
    from ppfl.core.problem import Problem


class FedRep(Alternating):
    """w_m ← tune(θ, w_m), w the last layers;  θ_m ← θ_m − η ∇_1 f_B(θ_m, w_m), H times;  θ ← θ − direction(θ − θ_m).

    Source: Collins et al., ICML 2021, Algorithm 1: many steps on the head, then few (there one) on the body. It is
    `fedalt`, for splits that keep the output side local.
    """

    name: Literal["fedrep"]

    def resolve(self, problem: Problem, participation: float, optimizer: ServerOptimizer) -> Self:
        """Fill in `theory`; refuse splits whose local layers are not at the output side."""
        require_local_side(self.name, problem, "output", "fedalt")
        return super().resolve(problem, participation, optimizer)
