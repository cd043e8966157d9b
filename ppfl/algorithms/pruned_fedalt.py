"""FedAlt on the largest coordinates of θ."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ppfl.algorithms._alternating import Alternating
from ppfl.core.params import add_scaled, subtract
from ppfl.interfaces.method import ClientStep
from ppfl.interfaces.pruning import Pruned, on_kept
from ppfl.interfaces.step_sizes import step_size

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.interfaces.objective import Objective


class PrunedFedAlt(Pruned, Alternating):
    """w_i ← tune(θ⊙M_i, w_i);  θ_i ← θ_i − η M_i⊙∇_1 f_B(θ_i, w_i), H times from θ⊙M_i;  θ_j ← θ_j − direction of
    (1/Σ_i M_ij) Σ_i M_ij (θ − θ_i)_j.

    Reconstructed after the words of Liu, Ratnarajah, Sellathurai, Eldar (IEEE TSP 2024), see `Pruned`.
    """

    name: Literal["pruned_fedalt"]
    example: ClassVar[Example] = {**Alternating.example, "ratios": 0.5}

    def on_kept(
        self, objective: Objective, start: Params, masks: Params, state: State, data: Data, draws: Draws
    ) -> ClientStep:
        """Return (θ⊙M_i − θ_i, the tuned w_i)."""
        local, num_gradients = self.fine_tuner(objective, start, state["local"], data, draws)

        def step(theta: Params, batch: Data) -> Params:
            gradient = on_kept(objective.shared_gradient(theta, local, batch), masks)
            return add_scaled(theta, gradient, -step_size(self.lr))

        moved = subtract(start, self.iterate(step, start, data, draws))
        report = {**self.report(draws, of_shared=1), "local_gradients": num_gradients}
        return ClientStep(moved, {"local": local}, report)
