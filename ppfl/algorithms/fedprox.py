"""Federated averaging with a proximal term."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import NonNegativeFloat

from ppfl.core.params import add_scaled, subtract
from ppfl.interfaces.local_training import LocalTraining
from ppfl.interfaces.method import ClientStep
from ppfl.interfaces.step_sizes import step_size

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.interfaces.objective import Objective
    from ppfl.interfaces.split import Splits
    from ppfl.interfaces.theory import Constants


class FedProx(LocalTraining):
    """θ_m ← θ_m − η (∇f_B(θ_m) + μ (θ_m − θ)), H times from θ;  θ ← θ − direction(θ − θ_m).

    Source: Li et al., MLSys 2020, Algorithm 2, the subproblem solved inexactly by H gradient steps. Everything is
    shared. With μ = 0 it is FedAvg.
    """

    name: Literal["fedprox"]
    splits: ClassVar[Splits] = "all shared"
    instead: ClassVar[str] = "fedsim or fedalt"
    example: ClassVar[Example] = {**LocalTraining.example, "penalty": 0.3}
    penalty: NonNegativeFloat
    """μ, weight of ½‖θ_m − θ‖²."""

    def client(self, objective: Objective, message: Params, state: State, data: Data, draws: Draws) -> ClientStep:
        """Return (θ − θ_m, nothing local)."""

        def step(shared: Params, batch: Data) -> Params:
            gradient = objective.shared_gradient(shared, state["local"], batch)
            gradient = add_scaled(gradient, subtract(shared, message), self.penalty)
            return add_scaled(shared, gradient, -step_size(self.lr))

        shared = self.iterate(step, message, data, draws)
        return ClientStep(subtract(message, shared), state, self.report(draws, of_shared=1))

    def curvature(self, constants: Constants) -> float:
        """max_m λ_max(∇² f_m) + μ."""
        return constants.joint_smoothness + self.penalty
