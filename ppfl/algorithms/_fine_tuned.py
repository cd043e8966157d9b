"""A step of the server along gradients at fine-tuned w: what methods share that differ in how much of θ they train."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import PositiveFloat

from ppfl.core.plugins import ChosenFrom
from ppfl.interfaces.method import Algorithm, FineTuner, ServerOptimizer
from ppfl.interfaces.schedule import Scheduled
from ppfl.interfaces.step_sizes import resolve_shared_lr, step_size

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.core.types import Draws, Params, State
    from ppfl.interfaces.objective import Objective
    from ppfl.interfaces.problem import Problem


class FineTunedGradient(Scheduled, Algorithm):
    """w_m ← tune(θ, w_m);  uplink ∇_1 f_m(θ, w_m);  θ ← θ − γ · aggregate."""

    example: ClassVar[Example] = {"lr": 0.1, "fine_tuner": {"name": "gradient_descent", "steps": 2, "lr": 0.1}}
    server_settings: ClassVar[frozenset[str]] = frozenset({"lr", "lr_schedule"})
    lr: PositiveFloat | Literal["theory"]
    """γ; `theory` is 1/max_m λ_max(Hessian of F_m) with exact w, 1/max_m λ_max(∇²_11 f_m) otherwise."""
    fine_tuner: Annotated[FineTuner, ChosenFrom("ppfl.fine_tuners")]
    """How a client improves w_m with θ frozen."""

    @property
    def fine_tuner_of_clients(self) -> FineTuner:
        """Return the fine-tuner of the rounds."""
        return self.fine_tuner

    def draws(self, objective: Objective, client: int, round: int, num_samples: int) -> Draws:
        """Return what the fine-tuner draws."""
        return self.fine_tuner.draws(objective, client, round, num_samples)

    def server(self, state: State, aggregate: Params, optimizer: ServerOptimizer, round: int) -> State:
        """θ ← θ − γ · direction of the server optimizer."""
        return optimizer.step(state, aggregate, step_size(self.lr))

    def resolve(self, problem: Problem, participation: float, optimizer: ServerOptimizer) -> Self:
        """Fill in `theory` and refuse γ > 2/λ_max(mean S_m) where that must diverge."""
        fine_tuner = self.fine_tuner.resolve(problem)
        lr = resolve_shared_lr(self.lr, problem, fine_tuner, participation == 1.0, optimizer)
        return self.model_copy(update={"lr": lr, "fine_tuner": fine_tuner})
