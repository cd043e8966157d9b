"""Decentralized gradient descent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ppfl.algorithms._decentralized import Decentralized
from ppfl.core.params import add_scaled
from ppfl.interfaces.method import ClientStep
from ppfl.interfaces.step_sizes import step_size

if TYPE_CHECKING:
    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.interfaces.objective import Objective


class Dsgd(Decentralized):
    """x_i ← Σ_j w_ij x_j − η g_i,  g_i at the x_i of before.

    Source: Lian et al., NeurIPS 2017 (D-PSGD). With a constant η it stops at a distance from the optimum that grows
    with the difference of the nodes' gradients there.
    """

    name: Literal["dsgd"]

    def init_client(self, shared: Params, local: Params) -> State:
        """x_i = Σ_j w_ij x_j = θ_0."""
        return {"local": local, "model": shared, "mixed": shared}

    def client(self, objective: Objective, message: Params, state: State, data: Data, draws: Draws) -> ClientStep:
        """Take a step from the mean of the neighbours, and send where it leads."""
        found = self.computed(objective, state["model"], state, data, draws)
        model = add_scaled(state["mixed"], found.gradient, -step_size(self.lr))
        return ClientStep(model, {**state, "local": found.local, "model": model}, found.report)

    def receive(self, state: State, own: Params) -> State:
        """Keep Σ_j w_ij x_j for the next round."""
        return {**state, "mixed": own}
