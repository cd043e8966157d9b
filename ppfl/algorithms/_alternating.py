"""Fine-tuning of w, then steps on θ: what methods share that differ in their splits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from ppfl.core.params import subtract
from ppfl.core.plugins import ChosenFrom
from ppfl.interfaces.local_training import LocalTraining
from ppfl.interfaces.method import ClientStep, FineTuner, ServerOptimizer

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.interfaces.objective import Objective
    from ppfl.interfaces.problem import Problem


class Alternating(LocalTraining):
    """w_m ← tune(θ, w_m);  θ_m ← θ_m − η ∇_1 f_B(θ_m, w_m), H times from θ;  uplink θ − θ_m."""

    example: ClassVar[Example] = {
        **LocalTraining.example,
        "fine_tuner": {"name": "gradient_descent", "steps": 2, "lr": 0.1},
    }
    fine_tuner: Annotated[FineTuner, ChosenFrom("ppfl.fine_tuners")]
    """How a client improves w_m with θ frozen, before its steps on θ."""

    @property
    def fine_tuner_of_clients(self) -> FineTuner:
        """Return the fine-tuner of the rounds."""
        return self.fine_tuner

    def draws(self, objective: Objective, client: int, round: int, num_samples: int) -> Draws:
        """Return what the fine-tuner and the steps on θ draw."""
        tuning = self.fine_tuner.draws(objective, client, round, num_samples)
        return {**tuning, **super().draws(objective, client, round, num_samples)}

    def client(self, objective: Objective, message: Params, state: State, data: Data, draws: Draws) -> ClientStep:
        """Return (θ − θ_m, the tuned w_m)."""
        local, num_gradients = self.fine_tuner(objective, message, state["local"], data, draws)
        moved = subtract(message, self.shared_steps(objective, message, local, data, draws))
        report = {**self.report(draws, of_shared=1), "local_gradients": num_gradients}
        return ClientStep(moved, {"local": local}, report)

    def resolve(self, problem: Problem, participation: float, optimizer: ServerOptimizer) -> Self:
        """Fill in `theory` here and in the fine-tuner."""
        tuned = self.model_copy(update={"fine_tuner": self.fine_tuner.resolve(problem)})
        return super(Alternating, tuned).resolve(problem, participation, optimizer)
