"""Stochastic gradient descent on the local parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ppfl.core.params import add_scaled
from ppfl.interfaces.method import Tuned
from ppfl.interfaces.mini_batches import MiniBatchFineTuner
from ppfl.interfaces.step_sizes import resolve_local_lr

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.core.types import Data, Draws, Params
    from ppfl.interfaces.method import FineTuner
    from ppfl.interfaces.objective import Objective
    from ppfl.interfaces.problem import Problem


class SGD(MiniBatchFineTuner):
    """w ← w − η ∇_2 f_B(θ, w), B the next mini-batch, for `epochs` epochs.

    Source: Robbins & Monro 1951, without replacement within an epoch.
    """

    name: Literal["sgd"]
    example: ClassVar[Example] = {"lr": 0.05, "batch_size": "all", "epochs": 2}

    def tune(self, objective: Objective, shared: Params, local: Params, data: Data, draws: Draws) -> Tuned:
        """Return w after all epochs."""

        def step(w: Params, batch: Data) -> Params:
            return add_scaled(w, objective.local_gradient(shared, w, batch), -self.lr)

        return Tuned(self.iterate(step, local, data, draws), float(self.epochs))

    def resolve(self, problem: Problem) -> FineTuner:
        """Refuse mini-batches where there are no samples, and η > 2/λ_max(∇²_22 f_m) of any client."""
        resolve_local_lr(self.lr, problem)
        return super().resolve(problem)
