"""Federated averaging."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ppfl.core.params import subtract
from ppfl.interfaces.local_training import LocalTraining
from ppfl.interfaces.method import ClientStep

if TYPE_CHECKING:
    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.interfaces.objective import Objective
    from ppfl.interfaces.split import Splits


class FedAvg(LocalTraining):
    """θ_m ← θ_m − η ∇f_B(θ_m), H times from θ;  θ ← θ − direction(θ − θ_m), which is the mean of the θ_m.

    Source: McMahan et al., AISTATS 2017, Algorithm 1; with server optimizers: Reddi et al., ICLR 2021, Algorithm 1.
    Everything is shared. E epochs on all of a client's samples: `epochs: E`, `batch_size: B` here and
    `batch_size: all` in the problem.
    """

    name: Literal["fedavg"]
    splits: ClassVar[Splits] = "all shared"
    instead: ClassVar[str] = "fedsim or fedalt"

    def client(self, objective: Objective, message: Params, state: State, data: Data, draws: Draws) -> ClientStep:
        """Return (θ − θ_m, nothing local)."""
        moved = subtract(message, self.shared_steps(objective, message, state["local"], data, draws))
        return ClientStep(moved, state, self.report(draws, of_shared=1))
