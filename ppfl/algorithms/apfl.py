"""A learned mixture of an own and the global model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat

from ppfl.core.params import add_scaled, inner, map_params, subtract
from ppfl.interfaces.local_training import LocalTraining
from ppfl.interfaces.method import ClientStep
from ppfl.interfaces.step_sizes import step_size

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.interfaces.objective import Objective
    from ppfl.interfaces.split import Splits


class APFL(LocalTraining):
    """u = α v_m + (1 − α) θ_m;  θ_m ← θ_m − η ∇f_B(θ_m),  v_m ← v_m − η α ∇f_B(u),  α ← α − η_α ⟨v_m − θ_m, ∇f_B(u)⟩.

    Source: Deng et al., 2020, Algorithm 1, and its rule for a learned α, here in every step and clipped to [0, 1]. H
    times from θ; all three use the values of before the step. α v_m + (1 − α) θ is deployed; v_m and α stay with the
    client. Everything is shared. With α fixed at 0 it deploys FedAvg's model, at 1 that of local_only.
    """

    name: Literal["apfl"]
    splits: ClassVar[Splits] = "all shared"
    instead: ClassVar[str] = "fedsim or fedalt"
    example: ClassVar[Example] = {**LocalTraining.example, "mixing": 0.4, "mixing_lr": 0.05}
    mixing: Annotated[float, Field(ge=0, le=1)] = 0.5
    """α to begin with."""
    mixing_lr: NonNegativeFloat
    """η_α; 0 keeps α as it is."""

    def init_client(self, shared: Params, local: Params) -> State:
        """v_m = θ_0, and α."""
        like = next(iter(shared.values()))
        return {"local": local, "personal": shared, "mixing": {"alpha": torch.full_like(like.sum(), self.mixing)}}

    def client(self, objective: Objective, message: Params, state: State, data: Data, draws: Draws) -> ClientStep:
        """Return (θ − θ_m, (v_m, α))."""
        lr = step_size(self.lr)

        def step(x: tuple[Params, Params, torch.Tensor], batch: Data) -> tuple[Params, Params, torch.Tensor]:
            shared, personal, alpha = x
            of_shared = objective.shared_gradient(shared, state["local"], batch)
            of_mixture = objective.shared_gradient(_mix(personal, shared, alpha), state["local"], batch)
            slope = inner(subtract(personal, shared), of_mixture)
            shared, personal = add_scaled(shared, of_shared, -lr), add_scaled(personal, of_mixture, -lr * alpha)
            return shared, personal, torch.clamp(alpha - self.mixing_lr * slope, 0.0, 1.0)

        start = message, state["personal"], state["mixing"]["alpha"]
        shared, personal, alpha = self.iterate(step, start, data, draws)
        new_state = {"local": state["local"], "personal": personal, "mixing": {"alpha": alpha}}
        return ClientStep(subtract(message, shared), new_state, self.report(draws, of_shared=2))

    def view(self, server: State, state: State) -> tuple[Params, Params]:
        """α v_m + (1 − α) θ."""
        return _mix(state["personal"], server["shared"], state["mixing"]["alpha"]), state["local"]


def _mix(personal: Params, shared: Params, alpha: torch.Tensor) -> Params:
    return map_params(lambda v, theta: alpha * v + (1.0 - alpha) * theta, personal, shared)
