"""Plain gradient step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from ppfl.core.params import map_params
from ppfl.interfaces.method import ServerOptimizer

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.core.types import Params, State


class Sgd(ServerOptimizer):
    """direction = η g.

    Source: Reddi et al., ICLR 2021, Algorithm 1 with ServerOpt = SGD.
    """

    name: Literal["sgd"]
    example: ClassVar[Example] = {"lr": 0.6}

    def init(self, shared: Params) -> State:
        """Return an empty state."""
        return {}

    def direction(self, state: State, gradient: Params) -> tuple[Params, State]:
        """Return (η g, the same state)."""
        return map_params(lambda g: self.lr * g, gradient), state

    def largest_step(self, curvature: float) -> float:
        """2/(η λ_max): it is gradient descent."""
        return 2.0 / (self.lr * curvature) if curvature > 0 else math.inf
