"""Each client hears of a part of θ at a time, and remembers the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from ppfl.core.params import subtract
from ppfl.interfaces.local_training import LocalTraining
from ppfl.interfaces.method import ClientStep

from ._windows import placed, window

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.interfaces.objective import Objective

_BEGIN = "where it begins"


class PartialNews(LocalTraining):
    """θ_m ← θ at the coordinates that client m is sent, as it was elsewhere;  θ ← θ − direction(H steps from θ_m)."""

    name: Literal["partial_news"]
    example: ClassVar[Example] = {"lr": 0.1, "local_steps": 1, "shares": [0.5, 1.0]}

    shares: list[float]
    """Shares of θ that clients are sent, client after client in turn."""

    def init_client(self, shared: Params, local: Params) -> State:
        """Return w_m and θ_m = θ_0."""
        return {"local": local, "heard": shared}

    def downlink(self, server: State, round: int, client: int | None = None) -> Params | None:
        """The next coordinates of θ, and of each tensor where they begin."""
        if client is None:
            return None
        message = {}
        for name, value in server["shared"].items():
            where = window(value.numel(), self.shares[client % len(self.shares)], round)
            message |= {name: value.reshape(-1)[where], f"{name} {_BEGIN}": where[:1].to(value.dtype)}
        return message

    def client(self, objective: Objective, message: Params, state: State, data: Data, draws: Draws) -> ClientStep:
        """Return (θ_m − what steps make of it, (w_m, θ_m))."""
        heard = {}
        for name, value in state["heard"].items():
            begin, news = message[f"{name} {_BEGIN}"], message[name]
            where = (begin.to(torch.int64) + torch.arange(news.shape[0])) % value.numel()
            heard[name] = placed(news, where, value)
        moved = subtract(heard, self.shared_steps(objective, heard, state["local"], data, draws))
        report = {**self.report(draws, of_shared=1), "loss_before": objective.loss(heard, state["local"], data)}
        return ClientStep(moved, {**state, "heard": heard}, report)
