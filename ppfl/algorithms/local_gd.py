"""Local gradient descent: federated averaging without mini-batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ppfl.core.local_training import LocalTraining
from ppfl.core.method import ClientStep
from ppfl.core.params import subtract

if TYPE_CHECKING:
    from ppfl.core.objective import Objective
    from ppfl.core.split import Splits
    from ppfl.core.types import Data, Draws, Params, State


class LocalGD(LocalTraining):
    """θ_m ← θ_m − η ∇f_m(θ_m), H times from θ;  θ ← θ − direction(θ − θ_m), which is the mean of the θ_m.

    Source: Khaled, Mishchenko, Richtárik, "First Analysis of Local GD on Heterogeneous Data", 2019, Algorithm 1. It is
    `fedavg` with `batch_size: all`. Everything is shared.
    """

    name: Literal["local_gd"]
    splits: ClassVar[Splits] = "all shared"
    instead: ClassVar[str] = "fedsim or fedalt"
    batch_size: Literal["all"] = "all"
    """All data of the round in each step."""

    def client(self, objective: Objective, message: Params, state: State, data: Data, draws: Draws) -> ClientStep:
        """Return (θ − θ_m, nothing local)."""
        moved = subtract(message, self.shared_steps(objective, message, state["local"], data, draws))
        return ClientStep(moved, state, self.report(draws, of_shared=1))
