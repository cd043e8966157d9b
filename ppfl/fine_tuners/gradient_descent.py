"""Gradient descent on the local parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import PositiveFloat, PositiveInt

from ppfl.interfaces.method import FineTuner, Tuned
from ppfl.interfaces.schedule import Scheduled
from ppfl.interfaces.step_sizes import resolve_local_lr, step_size

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.core.types import Data, Draws, Params
    from ppfl.interfaces.objective import Objective
    from ppfl.interfaces.problem import Problem


class GradientDescent(Scheduled, FineTuner):
    """w ← w − η ∇_2 f(θ, w), `steps` times, on all the data of the call.

    Source: Mishchenko et al., TMLR 2025, the local gradient descent of Algorithm 1 (FFGG).
    """

    name: Literal["gradient_descent"]
    example: ClassVar[Example] = {"steps": 3, "lr": 0.05}
    steps: PositiveInt
    """τ, gradients of w a call."""
    lr: PositiveFloat | Literal["theory"]
    """η; `theory` is 1/max_m λ_max(∇²_22 f_m)."""

    def tune(self, objective: Objective, shared: Params, local: Params, data: Data, draws: Draws) -> Tuned:
        """Return w after `steps` steps."""
        return Tuned(objective.descend(shared, local, data, step_size(self.lr), self.steps), float(self.steps))

    def resolve(self, problem: Problem) -> FineTuner:
        """Fill in `theory`; refuse η > 2/λ_max(∇²_22 f_m) of any client."""
        return self.model_copy(update={"lr": resolve_local_lr(self.lr, problem)})
