"""Each client says how much its parts of the model are to count."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from ppfl.core.params import subtract
from ppfl.interfaces.local_training import LocalTraining
from ppfl.interfaces.method import ClientStep

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ppfl.core.plugins import Example
    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.interfaces.method import ServerOptimizer
    from ppfl.interfaces.objective import Objective


class TrustedRows(LocalTraining):
    """θ_m as in federated averaging, in `parts` rows;  row c of θ ← its mean with the weights max(0, w_mj), j = c mod
    |w_m|, that client m sends along.

    Source: a test.
    """

    name: Literal["trusted_rows"]
    needs_rounds: ClassVar[str] = "a row is averaged over those of a cohort that trust theirs"
    needs_mean: ClassVar[str] = "other rules know no weights of rows"
    example: ClassVar[Example] = {"lr": 0.1, "local_steps": 2, "parts": 3}

    parts: int
    """C, rows of θ."""

    def uplink_like(self, server: State) -> Params:
        """Return θ in rows, and a weight for each."""
        theta = server["shared"]["theta"]
        return {"trust": theta.new_zeros(self.parts), "theta": theta.reshape(self.parts, -1)}

    def sent_weights(self) -> Mapping[str, str]:
        """Rows of θ have the trust as weights."""
        return {"theta": "trust"}

    def client(self, objective: Objective, message: Params, state: State, data: Data, draws: Draws) -> ClientStep:
        """Return (θ − θ_m in rows, trust)."""
        w = state["local"]["w"]
        moved = subtract(message, self.shared_steps(objective, message, state["local"], data, draws))
        places = torch.arange(self.parts) % len(w)
        trust = torch.clamp(w[places], min=0.0)
        return ClientStep({"trust": trust, "theta": moved["theta"].reshape(self.parts, -1)}, state, self.report(draws))

    def server(self, state: State, aggregate: Params, optimizer: ServerOptimizer, round: int) -> State:
        """θ ← θ − the mean of each row."""
        theta = state["shared"]["theta"]
        return {**state, "shared": {"theta": theta - aggregate["theta"].reshape(theta.shape)}}
