"""MoTEF with variance reduction."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from ppfl.algorithms._tracking import CompressedTracking
from ppfl.core.params import flatten

if TYPE_CHECKING:
    import torch

    from ppfl.algorithms._decentralized import Computed
    from ppfl.core.plugins import Example
    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.interfaces.method import ClientStep
    from ppfl.interfaces.objective import Objective


class MotefVr(CompressedTracking):
    """MoTEF with M_i ← ∇f_i(x_i; ξ) + (1−λ)(M_i − ∇f_i(x_i of before; ξ)), both on the samples ξ of the round.

    Source: Islamov, Gao, Stich, 2405.20114, Algorithm 2 (MoTEF-VR). With local parameters w_i is tuned at both x_i from
    where it was, and the one at the newer x_i is kept.
    """

    name: Literal["motef_vr"]
    example: ClassVar[Example] = {**CompressedTracking.example, "momentum": 0.5}
    momentum: Annotated[float, Field(gt=0, le=1)]
    """λ."""

    @property
    def level(self) -> float:
        """λ."""
        return self.momentum

    def begin(self, shared: Params) -> State:
        """There is no x_i of before; θ_0 stands for it."""
        return {**super().begin(shared), "before": shared}

    def client(self, objective: Objective, message: Params, state: State, data: Data, draws: Draws) -> ClientStep:
        """Do what MoTEF does; two gradients in all rounds but the first."""
        step = super().client(objective, message, state, data, draws)
        # the second gradient is that of `averaged`, which is asked only for what is shared and has moved before
        if self.begins or not state["model"]:
            return step
        return replace(step, report={name: 2.0 * value for name, value in step.report.items()})

    def moved(
        self, objective: Objective, found: Computed, state: State, data: Data, draws: Draws
    ) -> tuple[Params, State]:
        """Do what MoTEF does, and keep x_i."""
        message, changed = super().moved(objective, found, state, data, draws)
        return message, {**changed, "before": state["model"]}

    def averaged(
        self, objective: Objective, gradient: torch.Tensor, state: State, data: Data, draws: Draws
    ) -> torch.Tensor:
        """M_i ← g_i + (1−λ)(M_i − g_i at the x_i of before), (D,); g_i in the first round."""
        if self.begins:
            return gradient
        earlier = flatten(self.computed(objective, state["before"], state, data, draws).gradient)
        return gradient + (1.0 - self.level) * (state["vectors"]["momentum"] - earlier)
