"""Scores of quadratic losses, all in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ppfl.core.params import subtract
from ppfl.interfaces.scores import PureScores, Scores
from ppfl.problems._quadratic_objective import column, exactly, join
from ppfl.rows.exact_sum import ExactSum

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ppfl.core.communicator import Communicator
    from ppfl.core.types import Data, Params
    from ppfl.interfaces.client_data import ClientData
    from ppfl.problems._quadratic_objective import Quadratic
    from ppfl.problems._quadratic_operator import PersonalizedOperator


class QuadraticScores(Scores):
    """f_m(θ, w); ‖F(θ)‖, ‖θ − θ*‖ and ‖∇_1 f_m(θ, w_m*(θ))‖, means over honest clients.

    blocks: of the clients of this rank, in float64. operator: where w is shared too, what θ alone is worth to clients
    that tune a w of their own.
    """

    objective: Quadratic

    def __init__(
        self,
        objective: Quadratic,
        client_data: ClientData,
        blocks: Mapping[int, Data],
        theta_star: Params,
        byzantine: frozenset[int],
        operator: PersonalizedOperator | None,
        communicator: Communicator,
    ) -> None:
        super().__init__(objective, client_data)
        self.blocks = blocks
        self._theta_star = theta_star
        self._byzantine = byzantine
        self._operator = operator
        self._communicator = communicator

    def client_metrics(self, shared: Params, local: Params, client: int) -> dict[str, float]:
        """f_m(θ, w), and ‖θ − μ_m‖² where μ_m is known."""
        return {name: float(score) for name, score in self.of_client(shared, local, self.blocks[client]).items()}

    def shared_metrics(self, shared: Params) -> dict[str, torch.Tensor]:
        """‖F(θ)‖, ‖θ − θ*‖ and, (M,), ‖∇_1 f_m(θ, w_m*(θ))‖, all at w_m*(θ). Collective."""
        theta = exactly(shared)
        total = ExactSum(sum(self.objective.shared_lengths.values()))
        norms = []
        for client in self.client_data.clients:
            gradient = self.objective.shared_gradient_at_exact_local(theta, self.blocks[client])
            if client not in self._byzantine:
                total.add(gradient)
            norms.append(torch.linalg.vector_norm(gradient))
        num_honest = self.client_data.num_clients - len(self._byzantine)
        mean = total.reduce(self._communicator) / num_honest
        own_w = {} if self._operator is None else {"personalized_operator_norm": self._operator.norm(theta["theta"])}
        of_all = self._communicator.allgather_rows(column(norms))
        return {**own_w, **self.of_shared(theta, mean, of_all, self.reference)}

    @property
    def reference(self) -> Params:
        """θ*."""
        return self._theta_star

    def of_client(self, shared: Params, local: Params, data: Data) -> Params:
        """f_m(θ, w), and ‖θ − μ_m‖² where the μ_m that θ is to be is known; scalars."""
        shared, local = exactly(shared), exactly(local)
        scores = {"loss": self.objective.loss(shared, local, data)}
        if "truth" in data:
            error = (shared | local)["theta"] - data["truth"]
            scores["squared_error"] = (error * error).sum()
        return scores

    def of_shared(
        self, shared: Params, mean_gradient: torch.Tensor, client_norms: torch.Tensor, reference: Params
    ) -> dict[str, torch.Tensor]:
        """‖F(θ)‖ and ‖θ − θ*‖, and the norms as they are."""
        difference = join(subtract(exactly(shared), reference), mean_gradient)
        return {
            "operator_norm": torch.linalg.vector_norm(mean_gradient),
            "distance": torch.linalg.vector_norm(difference),
            "client_gradient_norm": client_norms,
        }


class PureQuadraticScores(QuadraticScores, PureScores):
    """The same where all clients are honest and none is scored with a w that θ does not leave to it."""

    def scored_on(self, client: int) -> Data:
        """Return the blocks."""
        return self.blocks[client]

    def at(self, shared: Params, data: Data) -> Data:
        """Add t and Q_ss s."""
        return self.objective.at(exactly(shared), data)

    def gradient(self, shared: Params, data: Data) -> torch.Tensor:
        """∇_1 f_m(θ, w_m*(θ))."""
        return self.objective.shared_gradient_at_exact_local(shared, data)
