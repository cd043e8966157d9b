"""Gradient tracking without compression."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from ppfl.algorithms._tracking import MODEL, TRACKER, Published, Tracking, apart
from ppfl.core.params import flatten

if TYPE_CHECKING:
    import torch

    from ppfl.core.types import Draws, Params, State


class GradientTracking(Tracking):
    """M_i ← (1−λ)M_i + λg_i;  V_i ← Σ_j a_ij V_j + M_i − M_i of before;  x_i ← Σ_j a_ij x_j − ηV_i,  A = I + γ(W − I).

    Source: Nedić, Olshevsky, Shi, SIAM J. Optim. 2017 (DIGing), which is λ = γ = 1 with the gradient of the next x_i
    in the same round; momentum and damped weights are those of MoTEF (2405.20114), whose limit without compression it
    is.
    """

    name: Literal["gradient_tracking"]
    mixing: Annotated[float, Field(gt=0, le=1)] = 1.0
    """γ."""
    momentum: Annotated[float, Field(gt=0, le=1)] = 1.0
    """λ."""

    @property
    def level(self) -> float:
        """λ."""
        return self.momentum

    def messages_like(self, shared: Params) -> Params:
        """x_i and V_i."""
        like = flatten(shared)
        return {MODEL: like, TRACKER: like}

    def publish(self, model: torch.Tensor, tracker: torch.Tensor, vectors: Params, draws: Draws) -> Published:
        """Tell x_i and V_i."""
        # V_i stays in the node's state, which shares no memory with what is sent; x_i is copied there
        return Published({MODEL: model, TRACKER: tracker.clone()}, {})

    def receive(self, state: State, own: Params) -> State:
        """Σ_j w_ij (x_j − x_i) and Σ_j w_ij (V_j − V_i) of now."""
        vectors = state["vectors"]
        of_model, of_tracker = own[MODEL] - flatten(state["model"]), own[TRACKER] - vectors[TRACKER]
        return {**state, "vectors": {**vectors, apart(MODEL): of_model, apart(TRACKER): of_tracker}}
