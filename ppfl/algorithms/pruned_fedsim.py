"""FedSim on the largest coordinates of θ."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ppfl.algorithms._simultaneous import Simultaneous
from ppfl.core.params import add_scaled, subtract
from ppfl.interfaces.method import ClientStep
from ppfl.interfaces.pruning import Pruned, on_kept
from ppfl.interfaces.step_sizes import step_size

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.interfaces.objective import Objective


class PrunedFedSim(Pruned, Simultaneous):
    """(θ_i, w_i) ← (θ_i, w_i) − η (M_i⊙∇_1, ∇_2) f_B(θ_i, w_i), H times from (θ⊙M_i, w_i);  θ_j ← θ_j − direction of
    (1/Σ_i M_ij) Σ_i M_ij (θ − θ_i)_j.

    Reconstructed after the words of Liu, Ratnarajah, Sellathurai, Eldar (IEEE TSP 2024), see `Pruned`.
    """

    name: Literal["pruned_fedsim"]
    example: ClassVar[Example] = {**Simultaneous.example, "ratios": 0.5}

    def on_kept(
        self, objective: Objective, start: Params, masks: Params, state: State, data: Data, draws: Draws
    ) -> ClientStep:
        """Return (θ⊙M_i − θ_i, w_i)."""
        lr = step_size(self.lr)

        def step(x: tuple[Params, Params], batch: Data) -> tuple[Params, Params]:
            of_shared, of_local = objective.gradients(*x, batch)
            return add_scaled(x[0], on_kept(of_shared, masks), -lr), add_scaled(x[1], of_local, -lr)

        shared, local = self.iterate(step, (start, state["local"]), data, draws)
        return ClientStep(subtract(start, shared), {"local": local}, self.report(draws, of_shared=1, of_local=1))
