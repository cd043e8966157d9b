"""Heavy-ball momentum at the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from ppfl.core.params import map_params, zeros_like
from ppfl.interfaces.method import ServerOptimizer

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.core.types import Params, State


class Momentum(ServerOptimizer):
    """v ← β v + g;  direction = η v.

    Source: Polyak 1964; at the server: Hsu et al. 2019 (FedAvgM).
    """

    name: Literal["momentum"]
    example: ClassVar[Example] = {"lr": 0.3, "beta": 0.7}
    beta: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Share of the last velocity that is kept."""

    def init(self, shared: Params) -> State:
        """Return v = 0."""
        return {"velocity": zeros_like(shared)}

    def direction(self, state: State, gradient: Params) -> tuple[Params, State]:
        """Return (η v, state with the new v)."""
        velocity = map_params(lambda v, g: self.beta * v + g, state["velocity"], gradient)
        return map_params(lambda v: self.lr * v, velocity), {"velocity": velocity}
