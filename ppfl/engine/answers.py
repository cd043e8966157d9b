"""What clients do that are asked at a query point, as a method of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ppfl.interfaces.method import Algorithm
from ppfl.interfaces.personal_aggregates import PersonalAggregates
from ppfl.interfaces.query_points import QueryPoints

if TYPE_CHECKING:
    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.interfaces.method import ClientStep, ServerOptimizer
    from ppfl.interfaces.objective import Objective


class Answers(Algorithm):
    """g_j at θ_i: what all clients do with a query point, as a method of its own for whoever maps clients."""

    needs_rounds: ClassVar[str] = PersonalAggregates.needs_rounds
    name: Literal["answers"]
    of: QueryPoints
    """The method whose clients these are."""

    def init_client(self, shared: Params, local: Params) -> State:
        """Return a client's state before its first round."""
        return self.of.init_client(shared, local)

    def draws(self, objective: Objective, client: int, round: int, num_samples: int) -> Draws:
        """Return random inputs of one answer."""
        return self.of.answer_draws(objective, client, round, num_samples)

    def client(self, objective: Objective, message: Params, state: State, data: Data, draws: Draws) -> ClientStep:
        """Return the answer at θ_i."""
        return self.of.answer(objective, message, state, data, draws)

    def server(self, state: State, aggregate: Params, optimizer: ServerOptimizer, round: int) -> State:
        """Return θ_i as it is; no engine asks."""
        return state
