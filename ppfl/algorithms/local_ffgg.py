"""FFGG with several repetitions on the client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import PositiveFloat, PositiveInt

from ppfl.core.params import add_scaled, subtract
from ppfl.core.plugins import ChosenFrom
from ppfl.interfaces.client_data import at_step
from ppfl.interfaces.method import Algorithm, ClientStep, FineTuner, ServerOptimizer
from ppfl.interfaces.schedule import Scheduled
from ppfl.interfaces.step_sizes import resolve_shared_lr, step_size

if TYPE_CHECKING:
    import torch

    from ppfl.core.plugins import Example
    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.interfaces.objective import Objective
    from ppfl.interfaces.problem import Problem


class LocalFFGG(Scheduled, Algorithm):
    """{w_m ← tune(θ_m, w_m);  θ_m ← θ_m − γ ∇_1 f_m(θ_m, w_m)}, H times from θ;  θ ← θ − direction(θ − θ_m).

    Source: Mishchenko, Islamov, Gorbunov, Horváth, TMLR 2025, the local variant of FFGG. With H = 1 it is FFGG. All
    repetitions see the data of the round, whole; each has draws of its own.
    """

    name: Literal["local_ffgg"]
    example: ClassVar[Example] = {
        "lr": 0.1,
        "local_steps": 2,
        "fine_tuner": {"name": "gradient_descent", "steps": 2, "lr": 0.1, "start": "redraw"},
    }
    needs_rounds: ClassVar[str] = ""
    lr: PositiveFloat | Literal["theory"]
    """γ; `theory` is 1/max_m λ_max(Hessian of F_m) with exact w, 1/max_m λ_max(∇²_11 f_m) otherwise."""
    local_steps: PositiveInt
    """H, repetitions in a round."""
    fine_tuner: Annotated[FineTuner, ChosenFrom("ppfl.fine_tuners")]
    """How a client improves w_m with θ_m frozen."""

    @property
    def fine_tuner_of_clients(self) -> FineTuner:
        """Return the fine-tuner of the rounds."""
        return self.fine_tuner

    def draws(self, objective: Objective, client: int, round: int, num_samples: int) -> Draws:
        """Return what the fine-tuner draws in every repetition, named `<repetition>/<name>`."""
        drawn: Draws = {}
        for step in range(self.local_steps):
            # repetitions count on through the rounds, so that no two of them draw the same
            one = self.fine_tuner.draws(objective, client, round * self.local_steps + step, num_samples)
            drawn |= {f"{step}/{name}": value for name, value in one.items()}
        return drawn

    def client(self, objective: Objective, message: Params, state: State, data: Data, draws: Draws) -> ClientStep:
        """Return (θ − θ_m, w_m)."""
        shared, local = message, state["local"]
        num_gradients: float | torch.Tensor = 0.0
        for step in range(self.local_steps):
            own = {name.removeprefix(f"{step}/"): v for name, v in draws.items() if name.startswith(f"{step}/")}
            once = objective.shared_pass(shared, at_step(data, step, "local step"))
            local, num_tuning = self.fine_tuner(objective, shared, local, once.data, own)
            num_gradients = num_gradients + num_tuning
            shared = add_scaled(shared, once.shared_gradient(local), -step_size(self.lr))
        report = {"shared_gradients": float(self.local_steps), "local_gradients": num_gradients}
        return ClientStep(subtract(message, shared), {"local": local}, report)

    def server(self, state: State, aggregate: Params, optimizer: ServerOptimizer, round: int) -> State:
        """θ ← θ − direction of the server optimizer."""
        return optimizer.step(state, aggregate, 1.0)

    def resolve(self, problem: Problem, participation: float, optimizer: ServerOptimizer) -> LocalFFGG:
        """Fill in `theory`; with H = 1 refuse γ > 2/λ_max(mean S_m) where that must diverge."""
        fine_tuner = self.fine_tuner.resolve(problem)
        is_ffgg = participation == 1.0 and self.local_steps == 1
        lr = resolve_shared_lr(self.lr, problem, fine_tuner, is_ffgg, optimizer)
        return self.model_copy(update={"lr": lr, "fine_tuner": fine_tuner})
