"""A penalty and a coin instead of averaging: what methods share that differ in their splits."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, PositiveFloat

from ppfl.core.params import add_scaled, map_params, subtract
from ppfl.core.plugins import Resolved
from ppfl.core.rng import generator
from ppfl.interfaces.local_training import refuse_server_optimizer
from ppfl.interfaces.method import Algorithm, ClientStep, ServerOptimizer
from ppfl.interfaces.step_sizes import resolve_training_lr, step_size

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.interfaces.objective import Objective
    from ppfl.interfaces.problem import Problem

_GRADIENT = "take a gradient step"
_SEND = "send x"
_MOVES = "moves towards the mean"


class PenalizedMixture(Algorithm):
    """(x_m, w_m) ← (x_m, w_m) − α/(M(1−p)) ∇f_m(x_m, w_m) with probability 1 − p, else x_m ← x_m − αλ/(Mp) (x_m − x̄).

    For min (1/M) Σ f_m(x_m, w_m) + λ/(2M) Σ ‖x_m − x̄‖². A round is one iteration; its coin, keyed (seed, round), is the
    same for all M clients. (x_m, w_m) is deployed.

    In an averaging round clients send x_m and the server forms x̄, which they get, and move towards, at the beginning of
    a later round: the same iterates, since nothing comes in between, and `view` moves them already. With a plain mean
    over all clients (`under_plain_mean`) averagings leave x̄ where it is: only the first one after a gradient step
    sends x_m, and only the next gradient step needs x̄, before which clients move as often as there were averagings.
    Elsewhere every averaging round sends x_m, and the round after it x̄; with a sampled cohort it is the next cohort
    that moves, towards the mean over the last one. Other rounds send nothing.
    """

    needs_rounds: ClassVar[str] = "its coin decides for all clients of a round, and its mean is over them"
    needs_honesty: ClassVar[str] = "its clients send models, and neither gradients nor changes that could be scaled"
    needs_whole_uplinks: ClassVar[str] = "its clients send models, and a part of a model is none"
    branches_on_server: ClassVar[bool] = True
    needs_whole_gradients: ClassVar[str] = (
        "its step is an unbiased estimate of the gradient of f_m and the penalty, which a clipped one is not"
    )
    example: ClassVar[Example] = {"lr": 0.5, "penalty": 0.5, "probability": 0.6}
    lr: PositiveFloat | Literal["theory"]
    """α; `theory` is M/(2 max(L/(1−p), λ/p)), L = max_m λ_max(∇² f_m)."""
    penalty: PositiveFloat
    """λ."""
    probability: Annotated[float, Field(gt=0, lt=1)]
    """p, of an averaging round."""
    seed: Resolved[int] = 0
    """Of the coins."""
    num_clients: Resolved[int] = 1
    """M."""
    move: Resolved[float] = 0.0
    """αλ/(Mp)."""
    mean_stays: Resolved[bool] = False
    """Whether averagings leave x̄ where it is; filled in by `under_plain_mean`."""

    def init_server(self, shared: Params, optimizer: ServerOptimizer) -> State:
        """x̄ = θ_0; clients are there, and have nothing to do before the first round."""
        return {"shared": shared, "averaging": self._averaging(0, self._sends(0))}

    def init_client(self, shared: Params, local: Params) -> State:
        """x_m = θ_0."""
        return {"local": local, "personal": shared}

    def downlink(self, server: State, round: int, client: int | None = None) -> Params:
        """x̄ where clients begin with moves towards it, else nothing."""
        return server["shared"] if self._num_moves(round) and int(server["averaging"]["moves"]) else {}

    def uplink_like(self, server: State) -> Params:
        """Return the shapes of x_m where it is sent, else nothing."""
        return server["shared"] if bool(server["averaging"]["sends"]) else {}

    def draws(self, objective: Objective, client: int, round: int, num_samples: int) -> Draws:
        """Return what the coins say by names and shapes, since functions of a client do not branch on values."""
        said = {_GRADIENT: not self._averages(round), _SEND: self._sends(round)}
        marks = {name: torch.zeros(0) for name, is_so in said.items() if is_so}
        return {_MOVES: torch.zeros(self._num_moves(round)), **marks}

    def client(self, objective: Objective, message: Params, state: State, data: Data, draws: Draws) -> ClientStep:
        """Return (x_m or nothing, (x_m, w_m))."""
        own, local = self._moved(state["personal"], message, len(draws[_MOVES])), state["local"]
        if _GRADIENT not in draws:
            sent = map_params(torch.clone, own) if _SEND in draws else {}
            return ClientStep(sent, {"local": local, "personal": own})
        step = step_size(self.lr) / (self.num_clients * (1.0 - self.probability))
        of_own, of_local = objective.gradients(own, local, data)
        own, local = add_scaled(own, of_own, -step), add_scaled(local, of_local, -step)
        return ClientStep({}, {"local": local, "personal": own}, {"shared_gradients": 1.0, "local_gradients": 1.0})

    def server(self, state: State, aggregate: Params, optimizer: ServerOptimizer, round: int) -> State:
        """x̄ ← aggregate of the x_m where they were sent; one move more after an averaging round."""
        moves = 1 if aggregate else 0
        if self.mean_stays and self._averages(round) and not aggregate:
            moves = int(state["averaging"]["moves"])
            moves += moves > 0  # before the first gradient step x_m and x̄ are the same
        averaging = self._averaging(moves, self._sends(round + 1))
        return {**state, "shared": aggregate or state["shared"], "averaging": averaging}

    def view(self, server: State, state: State) -> tuple[Params, Params]:
        """(x_m, w_m)."""
        return self._moved(state["personal"], server["shared"], int(server["averaging"]["moves"])), state["local"]

    def under_plain_mean(self) -> Self:
        """Send only what changes x̄, and x̄ only to those who need it."""
        return self.model_copy(update={"mean_stays": True})

    def resolve(self, problem: Problem, participation: float, optimizer: ServerOptimizer) -> Self:
        """Fill in `theory`; refuse server optimizers; warn of large steps."""
        refuse_server_optimizer(self.name, optimizer)
        constants, curvature, num_clients = problem.theory.constants(), None, problem.client_data.num_clients
        if constants is not None:
            largest = max(constants.whole_smoothness / (1.0 - self.probability), self.penalty / self.probability)
            curvature = 2.0 * largest / num_clients
        lr = resolve_training_lr(self.lr, curvature)
        move = lr * self.penalty / (num_clients * self.probability)
        constant = {"seed": problem.objective.seed, "num_clients": num_clients, "move": move}
        return self.model_copy(update={"lr": lr, **constant})

    def _averages(self, round: int) -> bool:
        """Return the coin of a round; before the first one nobody averages."""
        return round >= 0 and _coin(self.seed, round) < self.probability

    def _sends(self, round: int) -> bool:
        """Say whether clients send x_m in a round."""
        if not self.mean_stays:
            return self._averages(round)
        return round > 0 and self._averages(round) and not self._averages(round - 1)

    def _num_moves(self, round: int) -> int:
        """Return how often clients move towards x̄ at the beginning of a round: once for each averaging since it."""
        if not self.mean_stays:
            return int(self._averages(round - 1))
        moves = 0
        while not self._averages(round) and self._averages(round - 1 - moves):
            moves += 1
        return moves

    def _averaging(self, moves: int, sends: bool) -> Params:
        """Return what the server keeps: moves that clients have yet to make, whether the next round sends x_m."""
        return {"moves": torch.tensor(moves), "sends": torch.tensor(sends)}

    def _moved(self, own: Params, mean: Params, moves: int) -> Params:
        """x ← x − αλ/(Mp) (x − x̄), `moves` times; towards nothing: x."""
        if not mean or not moves:
            return own
        way = 0.0
        for _ in range(moves):
            way += self.move * (1.0 - way)
        return add_scaled(own, subtract(own, mean), -way)


@lru_cache(maxsize=4096)
def _coin(seed: int, round: int) -> float:
    return float(generator(seed, "l2gd coin", round=round).random())
