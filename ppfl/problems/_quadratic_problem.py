"""The quadratic problem at run time, put together for any split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ppfl.interfaces.client_data import Statistics
from ppfl.interfaces.placement import Dealt
from ppfl.interfaces.problem import Problem
from ppfl.interfaces.split import EVERYTHING, Split
from ppfl.problems._quadratic_gram import Gram, cut, gram_of
from ppfl.problems._quadratic_noise import NoisyStatistics
from ppfl.problems._quadratic_objective import Quadratic
from ppfl.problems._quadratic_operator import PersonalizedOperator
from ppfl.problems._quadratic_scores import PureQuadraticScores, QuadraticScores
from ppfl.problems._quadratic_theory import QuadraticTheory

if TYPE_CHECKING:
    from ppfl.interfaces.placement import Placement
    from ppfl.problems._quadratic_file import Layout


@dataclass(frozen=True, eq=False)
class QuadraticProblem(Problem):
    """Quadratic losses, of which everything is known."""

    objective: Quadratic
    scores: QuadraticScores
    theory: QuadraticTheory
    placement: Placement
    layout: Layout
    gradient_noise: float | None

    def all_local(self) -> QuadraticProblem:
        """Return the same f_m with θ and w local. Collective."""
        is_local = self.objective.is_local
        grams = {client: gram_of(blocks, is_local) for client, blocks in self.scores.blocks.items()}
        everything = Split(local=(EVERYTHING,))
        dealt = Dealt(self.client_data.clients, self.client_data.clients_per_chunk)
        return build_quadratic(self.placement, everything, self.layout, dealt, grams, self.gradient_noise)


def build_quadratic(
    placement: Placement,
    split: Split,
    layout: Layout,
    dealt: Dealt,
    grams: dict[int, Gram],
    gradient_noise: float | None,
) -> QuadraticProblem:
    """Build the problem of these clients' losses. Collective."""
    clients = dealt.clients
    objective = Quadratic(placement, split, layout)
    blocks = cut(grams, objective.is_local)
    data = {
        client: {key: value.to(placement.device, placement.dtype) for key, value in of_client.items()}
        for client, of_client in blocks.items()
    }
    client_data = Statistics(layout.client_names, layout.num_rows, clients, data, dealt.clients_per_chunk)
    byzantine = placement.byzantine_clients(layout.client_names, layout.num_rows)
    theory = QuadraticTheory(objective, client_data, grams, blocks, byzantine, placement.communicator)
    operator = None
    if not objective.local_lengths:
        systems = ((grams[m].curvature, grams[m].linear) for m in clients if m not in byzantine)
        operator = PersonalizedOperator(systems, layout.shared_dimension, placement.communicator)
    is_pure = operator is None and not byzantine
    scores = (PureQuadraticScores if is_pure else QuadraticScores)(
        objective, client_data, blocks, theory.theta_star, byzantine, operator, placement.communicator
    )
    if gradient_noise is not None:
        client_data = NoisyStatistics(client_data, gradient_noise, placement.seed)
    return QuadraticProblem(objective, client_data, scores, theory, placement, layout, gradient_noise)
