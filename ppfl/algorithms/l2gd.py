"""A penalty instead of averaging, and a coin instead of rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, PositiveFloat, PrivateAttr

from ppfl.core.local_training import refuse_local_parameters, refuse_server_optimizer
from ppfl.core.method import Algorithm
from ppfl.core.params import add_scaled, map_params, subtract
from ppfl.core.rng import generator
from ppfl.core.step_sizes import resolve_training_lr, step_size

if TYPE_CHECKING:
    from ppfl.core.method import ServerOptimizer
    from ppfl.core.problem import Problem
    from ppfl.core.types import Data, Draws, Params, State

_GRADIENT = "take a gradient step"


class L2GD(Algorithm):
    """x_m ← x_m − α/(M(1−p)) ∇f_m(x_m) with probability 1 − p, else x_m ← x_m − αλ/(Mp) (x_m − x̄);  x̄ the mean.

    Source: Hanzely & Richtárik, 2020, Algorithm 1, for min (1/M) Σ f_m(x_m) + λ/(2M) Σ ‖x_m − x̄‖². A round is one
    iteration; its coin, keyed (seed, round), is the same for all M clients. x_m is deployed. Everything is shared.

    In an averaging round clients send x_m and the server forms x̄, which they get, and move towards, at the beginning of
    the next round: the same iterates, since nothing comes in between, and `view` moves them already. Other rounds send
    nothing. With a sampled cohort it is the next cohort that moves, towards the mean over the last one.
    """

    name: Literal["l2gd"]
    needs_rounds: ClassVar[str] = "its coin decides for all clients of a round, and its mean is over them"
    lr: PositiveFloat | Literal["theory"]
    """α; `theory` is M/(2 max(L/(1−p), λ/p)), L = max_m λ_max(∇² f_m)."""
    penalty: PositiveFloat
    """λ."""
    probability: Annotated[float, Field(gt=0, lt=1)]
    """p, of an averaging round."""
    _seed: int = PrivateAttr(default=0)  # filled in by `resolve`
    _move: float = PrivateAttr(default=0.0)  # αλ/(Mp), filled in by `resolve`

    def init_server(self, shared: Params, optimizer: ServerOptimizer) -> State:
        """x̄ = θ_0, and the coin of the first round."""
        return {"shared": shared, "averaging": _flags(False, self._averages(0))}

    def init_client(self, shared: Params, local: Params) -> State:
        """x_m = θ_0."""
        return {"local": local, "personal": shared}

    def downlink(self, server: State, round: int) -> Params:
        """x̄ after an averaging round, else nothing."""
        return server["shared"] if bool(server["averaging"]["last"]) else {}

    def uplink_like(self, server: State) -> Params:
        """Return the shapes of x_m in an averaging round, else nothing."""
        return server["shared"] if bool(server["averaging"]["next"]) else {}

    def draws(self, problem: Problem, client: int, round: int, num_samples: int) -> Draws:
        """Return the coin: whether a name is there, since functions of a client do not branch on values."""
        return {} if self._averages(round) else {_GRADIENT: torch.zeros(0)}

    def client(self, problem: Problem, message: Params, state: State, data: Data, draws: Draws) -> tuple[Params, State]:
        """Return (x_m or nothing, x_m)."""
        own = self._moved(state["personal"], message)
        if _GRADIENT not in draws:
            return map_params(torch.clone, own), {"local": state["local"], "personal": own}
        step = step_size(self.lr) / (problem.num_clients * (1.0 - self.probability))
        own = add_scaled(own, problem.shared_gradient(own, state["local"], data), -step)
        return {}, {"local": state["local"], "personal": own}

    def server(self, state: State, aggregate: Params, optimizer: ServerOptimizer, round: int) -> State:
        """x̄ ← aggregate of the x_m in an averaging round."""
        averaging = _flags(self._averages(round), self._averages(round + 1))
        return {**state, "shared": aggregate or state["shared"], "averaging": averaging}

    def view(self, server: State, state: State) -> tuple[Params, Params]:
        """x_m."""
        return self._moved(state["personal"], self.downlink(server, 0)), state["local"]

    def num_gradients(self, num_samples: int) -> tuple[float, float]:
        """1 − p on average."""
        return 1.0 - self.probability, 0.0

    def resolve(self, problem: Problem, participation: float, optimizer: ServerOptimizer) -> Self:
        """Fill in `theory`; refuse local parameters and server optimizers; warn of large steps."""
        refuse_local_parameters(self.name, problem, "fedsim or fedalt")
        refuse_server_optimizer(self.name, optimizer)
        constants, curvature = problem.constants(), None
        if constants is not None:
            largest = max(constants.joint_smoothness / (1.0 - self.probability), self.penalty / self.probability)
            curvature = 2.0 * largest / problem.num_clients
        lr = resolve_training_lr(self.lr, curvature)
        resolved = self.model_copy(update={"lr": lr})
        resolved._seed = problem.seed
        resolved._move = lr * self.penalty / (problem.num_clients * self.probability)
        return resolved

    def _averages(self, round: int) -> bool:
        return bool(generator(self._seed, "l2gd coin", round=round).random() < self.probability)

    def _moved(self, own: Params, mean: Params) -> Params:
        return add_scaled(own, subtract(own, mean), -self._move) if mean else own


def _flags(last: bool, next: bool) -> Params:
    return {"last": torch.tensor(last), "next": torch.tensor(next)}
