"""Nodes that follow the mean of all gradients: what methods with gradient tracking share."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar, NamedTuple, Self

import torch
from pydantic import Field

from ppfl.algorithms._compressed import Compressing, Told
from ppfl.algorithms._decentralized import Decentralized
from ppfl.core.params import flatten, unflatten
from ppfl.core.plugins import Resolved
from ppfl.interfaces.step_sizes import step_size

if TYPE_CHECKING:
    from ppfl.algorithms._decentralized import Computed
    from ppfl.core.plugins import Example
    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.interfaces.objective import Objective

MODEL, TRACKER = "model", "tracker"
"""The two vectors that a node tells its neighbours of, x_i and V_i."""


class Published(NamedTuple):
    """What a node tells of x_i and V_i, and what of its state changes with it."""

    message: Params
    vectors: Params


class Tracking(Decentralized):
    """M_i ← (1−λ)M_i + λg_i;  V_i ← V_i + γ Σ_j w_ij (G_j − G_i) + M_i − M_i of before;
    x_i ← x_i + γ Σ_j w_ij (H_j − H_i) − ηV_i,  H_i and G_i what neighbours know of x_i and V_i.

    The first round has M_i = V_i = G_i = g_i at θ_0, whatever λ is: with zeros instead x̄ would end elsewhere. So one
    call computes M and V at the x_i that it was given and then the next x_i: in sources, which begin with a gradient
    before the first round, these are the M and V of the round before. The mean of V over nodes is that of M, and
    x̄ ← x̄ − η · mean V.
    """

    mixing: Annotated[float, Field(gt=0, le=1)]
    """γ."""
    begins: Resolved[bool] = False
    """Whether this is the first round."""

    @property
    @abstractmethod
    def level(self) -> float:
        """λ."""

    @abstractmethod
    def publish(self, model: torch.Tensor, tracker: torch.Tensor, vectors: Params, draws: Draws) -> Published:
        """Return what is told of x_i and V_i of now, (D,), given what has been told before."""

    def at(self, round: int, num_rounds: int) -> Self:
        """Return the method of a round, which knows whether it is the first."""
        scaled = super().at(round, num_rounds)
        begins = round == 0
        # the first round alone is another method; no other one needs a copy
        return scaled if scaled.begins == begins else scaled.model_copy(update={"begins": begins})

    def begin(self, shared: Params) -> State:
        """Nobody has computed anything."""
        names = ("momentum", TRACKER, apart(MODEL), apart(TRACKER))
        return {"vectors": {name: torch.zeros_like(flatten(shared)) for name in names}}

    def moved(
        self, objective: Objective, found: Computed, state: State, data: Data, draws: Draws
    ) -> tuple[Params, State]:
        """Return what is told of the next x_i and of V_i."""
        known, before = state["vectors"], flatten(state["model"])
        momentum = self.averaged(objective, flatten(found.gradient), state, data, draws)
        # the change of M last and by itself: its mean over nodes is what that of V is to follow, to rounding
        tracker = known[TRACKER] + self.mixing * known[apart(TRACKER)] + (momentum - known["momentum"])
        model = before + self.mixing * known[apart(MODEL)] - step_size(self.lr) * tracker
        told = self.publish(model, tracker, known, draws)
        vectors = {**known, "momentum": momentum, TRACKER: tracker, **told.vectors}
        return told.message, {"model": unflatten(model, state["model"]), "vectors": vectors}

    def averaged(
        self, objective: Objective, gradient: torch.Tensor, state: State, data: Data, draws: Draws
    ) -> torch.Tensor:
        """M_i ← (1−λ)M_i + λg_i, (D,); g_i in the first round."""
        level = 1.0 if self.begins else self.level
        return (1.0 - level) * state["vectors"]["momentum"] + level * gradient


class CompressedTracking(Tracking, Compressing):
    """Tracking in which H_i ← H_i + C(x_i − H_i) and G_i ← G_i + C(V_i − G_i), two messages a round.

    H_i begin at θ_0, which all nodes know; G_i = V_i of the first round are sent as they are.
    """

    example: ClassVar[Example] = Compressing.example

    def begin(self, shared: Params) -> State:
        """H_i = θ_0."""
        state, start = super().begin(shared), flatten(shared)
        known = {reference(MODEL): start, reference(TRACKER): torch.zeros_like(start)}
        return {"vectors": {**state["vectors"], **known}}

    def draws(self, objective: Objective, client: int, round: int, num_samples: int) -> Draws:
        """Return what the fine-tuner and the compressor draw."""
        drawn = super().draws(objective, client, round, num_samples)
        for what in (MODEL, TRACKER):
            drawn = {**drawn, **self.message_draws(objective, client, round, what)}
        return drawn

    def messages_like(self, shared: Params) -> Params:
        """Two messages; that of V_i is V_i in the first round."""
        of_tracker = {TRACKER: flatten(shared)} if self.begins else self.message_like(TRACKER, shared)
        return {**self.message_like(MODEL, shared), **of_tracker}

    def publish(self, model: torch.Tensor, tracker: torch.Tensor, vectors: Params, draws: Draws) -> Published:
        """H_i ← H_i + C(x_i − H_i);  G_i ← G_i + C(V_i − G_i)."""
        told = {MODEL: self._told(MODEL, model, vectors, draws)}
        if self.begins:
            # nothing is known of V_i yet: told whole, it is known exactly
            told[TRACKER] = Told({TRACKER: tracker.clone()}, tracker, -tracker)
        else:
            told[TRACKER] = self._told(TRACKER, tracker, vectors, draws)
        message = {name: value for one in told.values() for name, value in one.message.items()}
        references = {reference(what): one.reference for what, one in told.items()}
        return Published(message, {**references, **{apart(what): one.apart for what, one in told.items()}})

    def receive(self, state: State, own: Params) -> State:
        """Σ_j w_ij (H_j − H_i) and Σ_j w_ij (G_j − G_i) of now."""
        vectors = state["vectors"]
        added = {apart(what): vectors[apart(what)] + own[what] for what in (MODEL, TRACKER)}
        return {**state, "vectors": {**vectors, **added}}

    def _told(self, what: str, value: torch.Tensor, vectors: Params, draws: Draws) -> Told:
        return self.tell(what, value, vectors[reference(what)], vectors[apart(what)], draws)


def apart(what: str) -> str:
    """Name Σ_j w_ij (ŷ_j − ŷ_i), (D,), of what neighbours know."""
    return f"{what} apart"


def reference(what: str) -> str:
    """Name ŷ_i, (D,)."""
    return f"{what} known"
