"""Personalization between being alone and full collaboration, against adversaries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, PositiveFloat, PositiveInt

from ppfl.core.params import add_scaled
from ppfl.core.transforms import is_transformed
from ppfl.interfaces.client_data import at_step
from ppfl.interfaces.local_training import refuse_server_optimizer
from ppfl.interfaces.method import ClientStep
from ppfl.interfaces.mini_batches import ORDER_OF_TRAINING, draw_rows, mini_batches, refuse_without_samples
from ppfl.interfaces.query_points import QueryPoints
from ppfl.interfaces.schedule import Scheduled
from ppfl.interfaces.step_sizes import resolve_training_lr, step_size

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.interfaces.method import Report, ServerOptimizer
    from ppfl.interfaces.objective import Objective
    from ppfl.interfaces.problem import Problem

_SIZE = "number of samples"
_ORDER_OF_ANSWERS = "order of samples for answers"
_LEVEL = "collaboration"
_OWN_STEP, _ANSWER = 0, 1
"""Numbers of mini-batches, by which dropout draws another mask for each."""


class Interpolation(Scheduled, QueryPoints):
    """θ_i ← θ_i − γ[(1−λ)∇_1 f_B(θ_i, w_i) + λR_i];  w_i ← w_i − γ∇_2 f_B(θ_i, w_i).

    Source: Allouah, El Mrini, Guerraoui, Gupta, Pinot, NeurIPS 2024, by their released code (IPGD): B is a mini-batch
    of i's own, R_i what the aggregator makes of all clients' mini-batch gradients at θ_i, that of i among them, which
    has another mini-batch. With λ = 0 nobody asks, and it is local_only with one local step. Reconstructed: w_i beside
    θ_i, which their method does not have; it follows its own gradient, in the same step, and answers of i are
    ∇_1 f_B(θ_j, w_i). A client that is not main takes its own step with λ = 0.
    """

    name: Literal["interpolation"]
    example: ClassVar[Example] = {"lr": 0.1, "collaboration": 0.5}
    lr: PositiveFloat | Literal["theory"]
    """γ; `theory` is 1/max_m λ_max(∇² f_m), θ and w taken together."""
    collaboration: Annotated[float, Field(ge=0, le=1)]
    """λ: 0 is alone, 1 is what all make of θ together."""
    batch_size: PositiveInt | Literal["all"] = "all"
    """Samples of a gradient, B, or `all` data of the round."""

    @property
    def asks(self) -> bool:
        """λ > 0: with λ = 0 the rule's answer may be NaN, and nobody is to know."""
        return self.collaboration > 0

    def init_client(self, shared: Params, local: Params) -> State:
        """Return w_i and θ_i = θ_0."""
        return {"local": local, "personal": shared}

    def downlink(self, server: State, round: int, client: int | None = None) -> Params | None:
        """Return nothing; or, where some are not main, the λ of each client."""
        if self.main_clients == "all" or not self.asks or not server["shared"]:
            return {}
        if client is None:
            return None
        like = next(iter(server["shared"].values()))
        return {_LEVEL: like.new_full((), self.collaboration if client in self.mains else 0.0)}

    def draws(self, objective: Objective, client: int, round: int, num_samples: int) -> Draws:
        """Return the samples of the own step, those of the first step of local_only."""
        return self._drawn(objective, ORDER_OF_TRAINING, client, round, num_samples)

    def answer_draws(self, objective: Objective, client: int, round: int, num_samples: int) -> Draws:
        """Return the samples of all answers of a round."""
        return self._drawn(objective, _ORDER_OF_ANSWERS, client, round, num_samples)

    def query(self, state: State) -> Params:
        """θ_i."""
        return state["personal"]

    def answer(self, objective: Objective, message: Params, state: State, data: Data, draws: Draws) -> ClientStep:
        """Return ∇_1 f_B(θ_i, w_j) of client j."""
        batch = self._batch(data, draws, _ANSWER)
        gradient = objective.shared_gradient(message, state["local"], batch)
        return ClientStep(gradient, state, self._report(draws, of_local=0.0))

    def client(self, objective: Objective, message: Params, state: State, data: Data, draws: Draws) -> ClientStep:
        """θ_i ← θ_i − γ(1−λ)∇_1 f_B(θ_i, w_i);  w_i ← w_i − γ∇_2 f_B(θ_i, w_i)."""
        lr, level = step_size(self.lr), message.get(_LEVEL, self.collaboration)
        of_own, of_local = objective.gradients(state["personal"], state["local"], self._batch(data, draws, _OWN_STEP))
        own = add_scaled(state["personal"], of_own, -lr * (1.0 - level))
        local = add_scaled(state["local"], of_local, -lr)
        return ClientStep({}, {"local": local, "personal": own}, self._report(draws, of_local=1.0))

    def receive(self, state: State, own: Params) -> State:
        """θ_i ← θ_i − γλR_i."""
        factor = -step_size(self.lr) * self.collaboration
        return {**state, "personal": add_scaled(state["personal"], own, factor)}

    def view(self, server: State, state: State) -> tuple[Params, Params]:
        """(θ_i, w_i)."""
        return state["personal"], state["local"]

    def resolve(self, problem: Problem, participation: float, optimizer: ServerOptimizer) -> Self:
        """Fill in `theory`; refuse server optimizers, and mini-batches where there are no samples."""
        refuse_server_optimizer(self.name, optimizer)
        refuse_without_samples("batch_size", self.batch_size, problem)
        constants = problem.theory.constants()
        curvature = None if constants is None else constants.whole_smoothness
        return self.model_copy(update={"lr": resolve_training_lr(self.lr, curvature)})

    def _drawn(self, objective: Objective, purpose: str, client: int, round: int, num_samples: int) -> Draws:
        if self.batch_size == "all":
            return {}
        rows = draw_rows(objective, purpose, client, round, num_samples, self.batch_size, 1)
        # under the name by which clients of different sizes are padded
        return {ORDER_OF_TRAINING: rows, _SIZE: torch.tensor(num_samples)}

    def _batch(self, data: Data, draws: Draws, number: int) -> Data:
        if self.batch_size == "all":
            return at_step(data, number)
        ((batch, _),) = mini_batches(data, draws[ORDER_OF_TRAINING], self.batch_size, may_wait=False)
        return at_step(batch, number)

    def _report(self, draws: Draws, of_local: float) -> Report:
        passes: float | torch.Tensor = 1.0
        if self.batch_size != "all":
            size = draws[_SIZE].double().clamp(min=1) if is_transformed() else max(1, int(draws[_SIZE]))
            passes = self.batch_size / size
            passes = passes.clamp(max=1.0) if isinstance(passes, torch.Tensor) else min(1.0, passes)
        return {"shared_gradients": passes, "local_gradients": of_local * passes}
