"""Adam on the local parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat

from ppfl.core.params import map_params, zeros_like
from ppfl.interfaces.method import Tuned
from ppfl.interfaces.mini_batches import MiniBatchFineTuner

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.core.types import Data, Draws, Params
    from ppfl.interfaces.objective import Objective


class Adam(MiniBatchFineTuner):
    """w ← w − η m̂ / (√v̂ + ε), m̂ and v̂ the bias-corrected running means of ∇_2 f_B(θ, w) and of its square.

    Source: Kingma & Ba, ICLR 2015, Algorithm 1. The running means start at 0 in every call.
    """

    name: Literal["adam"]
    example: ClassVar[Example] = {
        "lr": 0.05, "batch_size": "all", "epochs": 2, "beta1": 0.8, "beta2": 0.9, "epsilon": 0.01,
    }  # fmt: skip
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Decay of the running mean m."""
    beta2: float = Field(default=0.999, ge=0.0, lt=1.0)
    """Decay of the running mean of squares v."""
    epsilon: PositiveFloat = 1e-8
    """ε."""

    def tune(self, objective: Objective, shared: Params, local: Params, data: Data, draws: Draws) -> Tuned:
        """Return w after all epochs."""

        def step(x: tuple[Params, Params, Params, int], batch: Data) -> tuple[Params, Params, Params, int]:
            w, mean, square, number = x
            gradient = objective.local_gradient(shared, w, batch)
            mean = map_params(lambda m, g: self.beta1 * m + (1.0 - self.beta1) * g, mean, gradient)
            square = map_params(lambda v, g: self.beta2 * v + (1.0 - self.beta2) * g * g, square, gradient)
            return self._moved(w, mean, square, number), mean, square, number + 1

        start = local, zeros_like(local), zeros_like(local), 1
        return Tuned(self.iterate(step, start, data, draws)[0], float(self.epochs))

    def _moved(self, local: Params, mean: Params, square: Params, number: int) -> Params:
        # numbers of Python: the same for every client that takes the step, however they are vectorized
        mean_correction, square_correction = 1.0 - self.beta1**number, 1.0 - self.beta2**number

        def move(w: torch.Tensor, m: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return w - self.lr * (m / mean_correction) / (torch.sqrt(v / square_correction) + self.epsilon)

        return map_params(move, local, mean, square)
