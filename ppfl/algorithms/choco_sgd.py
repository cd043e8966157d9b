"""Decentralized gradient descent with compressed messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field

from ppfl.algorithms._compressed import Compressing
from ppfl.core.params import flatten, unflatten
from ppfl.interfaces.step_sizes import step_size

if TYPE_CHECKING:
    from ppfl.algorithms._decentralized import Computed
    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.interfaces.objective import Objective

_MODEL = "model"


class ChocoSgd(Compressing):
    """x_i ← x_i − η g_i;  x̂_i ← x̂_i + C(x_i − x̂_i);  x_i ← x_i + γ Σ_j w_ij (x̂_j − x̂_i).

    Source: Koloskova, Stich, Jaggi, ICML 2019, Algorithm 2 (Choco-SGD). Here x̂_i begin at θ_0, which all nodes know,
    and not at 0. With a constant η it stops at a distance from the optimum, as DSGD does.
    """

    name: Literal["choco_sgd"]
    mixing: Annotated[float, Field(gt=0, le=1)]
    """γ."""

    def begin(self, shared: Params) -> State:
        """x̂_i = θ_0."""
        start = flatten(shared)
        return {"vectors": {"reference": start, "apart": torch.zeros_like(start)}}

    def draws(self, objective: Objective, client: int, round: int, num_samples: int) -> Draws:
        """Return what the fine-tuner and the compressor draw."""
        drawn = super().draws(objective, client, round, num_samples)
        return {**drawn, **self.message_draws(objective, client, round, _MODEL)}

    def messages_like(self, shared: Params) -> Params:
        """One message."""
        return self.message_like(_MODEL, shared)

    def moved(
        self, objective: Objective, found: Computed, state: State, data: Data, draws: Draws
    ) -> tuple[Params, State]:
        """Take a step of one's own, and tell how far it leads from x̂_i."""
        known = state["vectors"]
        model = flatten(state["model"]) - step_size(self.lr) * flatten(found.gradient)
        # half of the round's step: neighbours come in when they have been heard, in `receive`
        told = self.tell(_MODEL, model, known["reference"], known["apart"], draws)
        vectors = {"reference": told.reference, "apart": told.apart}
        return told.message, {"model": unflatten(model, state["model"]), "vectors": vectors}

    def receive(self, state: State, own: Params) -> State:
        """x_i ← x_i + γ Σ_j w_ij (x̂_j − x̂_i)."""
        apart = state["vectors"]["apart"] + own[_MODEL]
        model = unflatten(flatten(state["model"]) + self.mixing * apart, state["model"])
        return {**state, "model": model, "vectors": {**state["vectors"], "apart": apart}}
