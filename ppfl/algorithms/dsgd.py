"""Decentralized gradient descent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ppfl.algorithms._decentralized import Decentralized
from ppfl.core.params import add_scaled
from ppfl.interfaces.step_sizes import step_size

if TYPE_CHECKING:
    from ppfl.algorithms._decentralized import Computed
    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.interfaces.objective import Objective


class Dsgd(Decentralized):
    """x_i ← Σ_j w_ij x_j − η g_i,  g_i at the x_i of before.

    Source: Lian et al., NeurIPS 2017 (D-PSGD). With a constant η it stops at a distance from the optimum that grows
    with the difference of the nodes' gradients there.
    """

    name: Literal["dsgd"]

    def begin(self, shared: Params) -> State:
        """Σ_j w_ij x_j = θ_0."""
        return {"mixed": shared}

    def messages_like(self, shared: Params) -> Params:
        """x_i."""
        return shared

    def moved(
        self, objective: Objective, found: Computed, state: State, data: Data, draws: Draws
    ) -> tuple[Params, State]:
        """Take a step from the mean of the neighbours, and send where it leads."""
        model = add_scaled(state["mixed"], found.gradient, -step_size(self.lr))
        # what is sent shares no memory with what the node keeps
        return {name: value.clone() for name, value in model.items()}, {"model": model}

    def receive(self, state: State, own: Params) -> State:
        """Keep Σ_j w_ij x_j for the next round."""
        return {**state, "mixed": own}
