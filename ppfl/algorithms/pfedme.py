"""Personalization by Moreau envelopes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import PositiveFloat, PositiveInt

from ppfl.core.params import add_scaled, subtract
from ppfl.interfaces.client_data import at_step
from ppfl.interfaces.local_training import LocalTraining
from ppfl.interfaces.method import ClientStep
from ppfl.interfaces.step_sizes import resolve_training_lr, step_size

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.interfaces.method import ServerOptimizer
    from ppfl.interfaces.objective import Objective
    from ppfl.interfaces.problem import Problem
    from ppfl.interfaces.split import Splits


class PFedMe(LocalTraining):
    """v_m ≈ argmin_v f_B(v) + (λ/2)‖v − θ_m‖²;  θ_m ← θ_m − η λ (θ_m − v_m), H times;  θ ← θ − direction(θ − θ_m).

    Source: Dinh et al., NeurIPS 2020, Algorithm 1; its β is the server optimizer's lr. v_m is found by K gradient steps
    from θ_m, and deployed. Everything is shared.
    """

    name: Literal["pfedme"]
    splits: ClassVar[Splits] = "all shared"
    instead: ClassVar[str] = "fedsim or fedalt"
    needs_whole_gradients: ClassVar[str] = (
        "λ (θ_m − v_m) is a gradient of its envelope where v_m is the proximal point of f_m, which clipped steps miss"
    )
    example: ClassVar[Example] = {**LocalTraining.example, "penalty": 2.0, "inner_steps": 2, "inner_lr": 0.1}
    lr: PositiveFloat | Literal["theory"]
    """η; `theory` is 1/λ: a Moreau envelope curves by at most λ."""
    penalty: PositiveFloat
    """λ."""
    inner_steps: PositiveInt
    """K, gradient steps to find v_m."""
    inner_lr: PositiveFloat | Literal["theory"]
    """Step to find v_m; `theory` is 1/(max_m λ_max(∇² f_m) + λ)."""

    def init_client(self, shared: Params, local: Params) -> State:
        """v_m = θ_0."""
        return {"local": local, "personal": shared}

    def client(self, objective: Objective, message: Params, state: State, data: Data, draws: Draws) -> ClientStep:
        """Return (θ − θ_m, the last v_m)."""

        def step(x: tuple[Params, Params], batch: Data) -> tuple[Params, Params]:
            shared = personal = x[0]
            for number in range(self.inner_steps):
                gradient = objective.shared_gradient(personal, state["local"], at_step(batch, number, "inner step"))
                gradient = add_scaled(gradient, subtract(personal, shared), self.penalty)
                personal = add_scaled(personal, gradient, -step_size(self.inner_lr))
            return add_scaled(shared, subtract(shared, personal), -step_size(self.lr) * self.penalty), personal

        shared, personal = self.iterate(step, (message, state["personal"]), data, draws)
        new_state = {"local": state["local"], "personal": personal}
        return ClientStep(subtract(message, shared), new_state, self.report(draws, of_shared=self.inner_steps))

    def view(self, server: State, state: State) -> tuple[Params, Params]:
        """v_m."""
        return state["personal"], state["local"]

    def resolve(self, problem: Problem, participation: float, optimizer: ServerOptimizer) -> Self:
        """Fill in `theory`."""
        resolved = super().resolve(problem, participation, optimizer)
        constants = problem.theory.constants()
        curvature = None if constants is None else constants.joint_smoothness + self.penalty
        steps = {
            "lr": resolve_training_lr(self.lr, self.penalty),
            "inner_lr": resolve_training_lr(self.inner_lr, curvature, "inner_lr"),
        }
        return resolved.model_copy(update=steps)
