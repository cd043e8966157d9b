"""Local gradient descent: federated averaging without mini-batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ppfl.core.params import subtract
from ppfl.interfaces.local_training import LocalTraining
from ppfl.interfaces.method import ClientStep

if TYPE_CHECKING:
    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.interfaces.objective import Objective
    from ppfl.interfaces.split import Splits


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
