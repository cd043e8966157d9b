"""Fine-tuning Followed by Global Gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import PositiveFloat

from ppfl.core.plugins import ChosenFrom
from ppfl.core.transforms import for_all
from ppfl.interfaces.method import ClientStep, FineTuner, JointAlgorithm, JointStep, Report, ServerOptimizer
from ppfl.interfaces.schedule import Scheduled
from ppfl.interfaces.step_sizes import resolve_shared_lr, step_size

if TYPE_CHECKING:
    import torch

    from ppfl.core.plugins import Example
    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.interfaces.client_data import Joined
    from ppfl.interfaces.objective import JointObjective, Objective
    from ppfl.interfaces.problem import Problem


class FFGG(Scheduled, JointAlgorithm):
    """w_m ← tune(θ, w_m);  θ ← θ − γ · aggregate of ∇_1 f_m(θ, w_m) over the cohort.

    Source: Mishchenko, Islamov, Gorbunov, Horváth, TMLR 2025, Algorithm 1 (FFGG).
    """

    name: Literal["ffgg"]
    example: ClassVar[Example] = {"lr": 0.1, "fine_tuner": {"name": "gradient_descent", "steps": 2, "lr": 0.1}}
    needs_rounds: ClassVar[str] = ""
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

    def client(self, objective: Objective, message: Params, state: State, data: Data, draws: Draws) -> ClientStep:
        """Return ∇_1 f_m(θ, w_m) at the tuned w_m, and the tuned w_m."""
        once = objective.shared_pass(message, data)
        local, num_gradients = self.fine_tuner(objective, message, state["local"], once.data, draws)
        report = {"shared_gradients": 1.0, "local_gradients": num_gradients}
        return ClientStep(once.shared_gradient(local), {"local": local}, report)

    def client_sum(
        self, objective: JointObjective, message: Params, states: State, joined: Joined, draws: Draws,
        weights: torch.Tensor,
    ) -> JointStep:  # fmt: skip
        """Return Σ_k v_k ∇_1 f_k(θ, w_k) and the tuned w_k: the clients' samples share one way forth and one back."""
        once = objective.joint_pass(message, joined)

        def tune(local: Params, data: Data, draw: Draws) -> tuple[Params, Report]:
            tuned = self.fine_tuner(objective, message, local, data, draw)
            return tuned.local, {"shared_gradients": 1.0, "local_gradients": tuned.num_gradients}

        local, report = for_all(tune, states["local"], once.data, draws)
        return JointStep(once.shared_gradient(local, weights), {"local": local}, report)

    def server(self, state: State, aggregate: Params, optimizer: ServerOptimizer, round: int) -> State:
        """θ ← θ − γ · direction of the server optimizer."""
        return optimizer.step(state, aggregate, step_size(self.lr))

    def resolve(self, problem: Problem, participation: float, optimizer: ServerOptimizer) -> FFGG:
        """Fill in `theory` and refuse γ > 2/λ_max(mean S_m) where that must diverge."""
        fine_tuner = self.fine_tuner.resolve(problem)
        lr = resolve_shared_lr(self.lr, problem, fine_tuner, participation == 1.0, optimizer)
        return self.model_copy(update={"lr": lr, "fine_tuner": fine_tuner})
