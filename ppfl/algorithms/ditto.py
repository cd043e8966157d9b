"""An own model beside federated averaging."""

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


class Ditto(LocalTraining):
    """θ_m ← θ_m − η ∇f_B(θ_m), H times from θ;  v_m ← v_m − η (∇f_B(v_m) + λ (v_m − θ)), H times;  θ as in FedAvg.

    Source: Li et al., ICML 2021, Algorithm 1 with FedAvg as the global solver. v_m is deployed. Everything is shared;
    both see the same mini-batches. With λ = 0, v_m is what local_only finds.
    """

    name: Literal["ditto"]
    splits: ClassVar[Splits] = "all shared"
    instead: ClassVar[str] = "fedsim or fedalt"
    example: ClassVar[Example] = {**LocalTraining.example, "penalty": 0.3}
    penalty: NonNegativeFloat
    """λ, weight of ½‖v_m − θ‖²."""

    def init_client(self, shared: Params, local: Params) -> State:
        """v_m = θ_0."""
        return {"local": local, "personal": shared}

    def client(self, objective: Objective, message: Params, state: State, data: Data, draws: Draws) -> ClientStep:
        """Return (θ − θ_m, v_m)."""
        shared = self.shared_steps(objective, message, state["local"], data, draws)

        def step(personal: Params, batch: Data) -> Params:
            gradient = objective.shared_gradient(personal, state["local"], batch)
            gradient = add_scaled(gradient, subtract(personal, message), self.penalty)
            return add_scaled(personal, gradient, -step_size(self.lr))

        personal = self.iterate(step, state["personal"], data, draws)
        new_state = {"local": state["local"], "personal": personal}
        return ClientStep(subtract(message, shared), new_state, self.report(draws, of_shared=2))

    def view(self, server: State, state: State) -> tuple[Params, Params]:
        """v_m."""
        return state["personal"], state["local"]

    def curvature(self, constants: Constants) -> float:
        """max_m λ_max(∇² f_m) + λ."""
        return constants.joint_smoothness + self.penalty
