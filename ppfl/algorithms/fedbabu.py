"""Training the body alone, tuning the heads at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import model_validator

from ppfl.core.params import subtract
from ppfl.core.plugins import ChosenFrom, refusal
from ppfl.interfaces.local_training import LocalTraining
from ppfl.interfaces.method import ClientStep, FineTuner

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.interfaces.method import ServerOptimizer
    from ppfl.interfaces.objective import Objective
    from ppfl.interfaces.problem import Problem
    from ppfl.interfaces.split import Splits


class FedBABU(LocalTraining):
    """θ_m ← θ_m − η ∇_1 f_B(θ_m, w_0), H times from θ, w_0 the initial head;  θ ← θ − direction(θ − θ_m).

    Source: Oh et al., ICLR 2022, Algorithm 1. Heads stay as they were drawn, the same for all clients, until the final
    stage `tuned`; the stage `personal` is therefore as good as `global`.
    """

    name: Literal["fedbabu"]
    splits: ClassVar[Splits] = "output side"
    instead: ClassVar[str] = "fedalt"
    example: ClassVar[Example] = {
        **LocalTraining.example,
        "fine_tuner": {"name": "gradient_descent", "steps": 2, "lr": 0.1},
    }
    fine_tuner: Annotated[FineTuner, ChosenFrom("ppfl.fine_tuners")]
    """How the heads are tuned in the final stage; the rounds do not use it."""

    @model_validator(mode="after")
    def _tunes_after_the_rounds(self) -> Self:
        if self.fine_tuner.schedules():
            raise refusal("fine_tuner.lr_schedule", "nothing: the rounds of fedbabu do not use its fine-tuner")
        return self

    @property
    def fine_tuner_of_clients(self) -> FineTuner:
        """Return the fine-tuner of the final stage."""
        return self.fine_tuner

    def client(self, objective: Objective, message: Params, state: State, data: Data, draws: Draws) -> ClientStep:
        """Return (θ − θ_m, the head as it was)."""
        moved = subtract(message, self.shared_steps(objective, message, state["local"], data, draws))
        return ClientStep(moved, state, self.report(draws, of_shared=1))

    def resolve(self, problem: Problem, participation: float, optimizer: ServerOptimizer) -> Self:
        """Fill in `theory`, 1/max_m λ_max(∇²_11 f_m) for the steps on θ and in the fine-tuner."""
        tuned = self.model_copy(update={"fine_tuner": self.fine_tuner.resolve(problem)})
        return super(FedBABU, tuned).resolve(problem, participation, optimizer)
