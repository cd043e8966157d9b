"""What the adaptive server optimizers have in common."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field, PositiveFloat

from ppfl.core.params import map_params, zeros_like
from ppfl.interfaces.method import ServerOptimizer

if TYPE_CHECKING:
    from ppfl.core.types import Params, State

Decay = Annotated[float, Field(ge=0, lt=1)]


class Adaptive(ServerOptimizer):
    """m ← β₁ m + (1 − β₁) g;  v ← second moment of g;  direction = η m / (√v + τ), coordinate by coordinate.

    Source: Reddi et al., ICLR 2021, Algorithm 2, with m = 0 and v = τ² at the start and no correction of bias.
    """

    lr: PositiveFloat
    """η."""
    beta1: Decay = 0.9
    """β₁, share of the last mean m that is kept."""
    tau: PositiveFloat = 1e-3
    """τ, in units of g: coordinates much smaller than that are hardly scaled up."""

    @abstractmethod
    def second_moment(self, v: torch.Tensor, square: torch.Tensor) -> torch.Tensor:
        """Return the next v, given the last one and g²."""

    def init(self, shared: Params) -> State:
        """Return m = 0, v = τ²."""
        return {"mean": zeros_like(shared), "square": map_params(lambda x: torch.full_like(x, self.tau**2), shared)}

    def direction(self, state: State, gradient: Params) -> tuple[Params, State]:
        """Return (η m / (√v + τ), state with the new m and v)."""
        mean = map_params(lambda m, g: self.beta1 * m + (1.0 - self.beta1) * g, state["mean"], gradient)
        square = map_params(lambda v, g: self.second_moment(v, g * g), state["square"], gradient)
        # τ outside of the root, as the source has it; Adam on clients has its ε there, too
        direction = map_params(lambda m, v: self.lr * m / (torch.sqrt(v) + self.tau), mean, square)
        return direction, {"mean": mean, "square": square}
