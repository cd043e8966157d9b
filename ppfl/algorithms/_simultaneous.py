"""Steps on θ and w together: what methods share that differ in their splits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppfl.core.params import add_scaled, subtract
from ppfl.interfaces.local_training import LocalTraining
from ppfl.interfaces.method import ClientStep
from ppfl.interfaces.step_sizes import step_size

if TYPE_CHECKING:
    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.interfaces.objective import Objective
    from ppfl.interfaces.theory import Constants


class Simultaneous(LocalTraining):
    """(θ_m, w_m) ← (θ_m, w_m) − η ∇f_B(θ_m, w_m), H times from (θ, w_m);  uplink θ − θ_m."""

    def client(self, objective: Objective, message: Params, state: State, data: Data, draws: Draws) -> ClientStep:
        """Return (θ − θ_m, w_m)."""
        lr = step_size(self.lr)

        def step(x: tuple[Params, Params], batch: Data) -> tuple[Params, Params]:
            of_shared, of_local = objective.gradients(*x, batch)
            return add_scaled(x[0], of_shared, -lr), add_scaled(x[1], of_local, -lr)

        shared, local = self.iterate(step, (message, state["local"]), data, draws)
        return ClientStep(subtract(message, shared), {"local": local}, self.report(draws, of_shared=1, of_local=1))

    def curvature(self, constants: Constants) -> float:
        """max_m λ_max(∇² f_m), θ and w taken together."""
        return constants.whole_smoothness
