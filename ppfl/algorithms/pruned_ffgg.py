"""FFGG on the largest coordinates of θ."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ppfl.algorithms._fine_tuned import FineTunedGradient
from ppfl.interfaces.method import ClientStep
from ppfl.interfaces.pruning import Pruned, on_kept

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.interfaces.objective import Objective


class PrunedFFGG(Pruned, FineTunedGradient):
    """w_i ← tune(θ⊙M_i, w_i);  θ_j ← θ_j − γ (1/Σ_i M_ij) Σ_i M_ij ∇_1 f_i(θ⊙M_i, w_i)_j.

    Of this package: FFGG (Mishchenko, Islamov, Gorbunov, Horváth, TMLR 2025, Algorithm 1) with the masks of pruning
    over wireless networks, which are a reconstruction (`Pruned`).
    """

    name: Literal["pruned_ffgg"]
    example: ClassVar[Example] = {**FineTunedGradient.example, "ratios": 0.5}
    server_settings: ClassVar[frozenset[str]] = Pruned.server_settings | FineTunedGradient.server_settings

    def on_kept(
        self, objective: Objective, start: Params, masks: Params, state: State, data: Data, draws: Draws
    ) -> ClientStep:
        """Return ∇_1 f_i(θ⊙M_i, w_i) at the tuned w_i, and the tuned w_i."""
        once = objective.shared_pass(start, data)
        local, num_gradients = self.fine_tuner(objective, start, state["local"], once.data, draws)
        report = {"shared_gradients": 1.0, "local_gradients": num_gradients}
        return ClientStep(on_kept(once.shared_gradient(local), masks), {"local": local}, report)
