"""Centred clipping."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import PositiveFloat, PositiveInt

from ppfl.core.params import ratio
from ppfl.interfaces.aggregator import Aggregator
from ppfl.rows.gram import central_row, squared_distances_to

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.rows.client_matrix import ClientMatrix


class CenteredClipping(Aggregator):
    """v ← v + (1/N) Σ_i (x_i − v) min(1, radius/‖x_i − v‖), `steps` times.

    Source: Karimireddy, He, Jaggi, ICML 2021, Algorithm 2. There v begins at the aggregate of the round before; here
    the rule has no memory, see `start`.
    """

    name: Literal["centered_clipping"]
    example: ClassVar[Example] = {"radius": 1.5, "steps": 4}
    radius: PositiveFloat | Literal["infinite"]
    """Farthest that one vector pulls; `infinite` makes it the mean."""
    steps: PositiveInt = 3
    """Steps."""
    start: Literal["majority", "zero"] = "majority"
    """Where v begins. majority: at the vector with the smallest ball around it that holds ⌊N/2⌋ + 1 vectors, ties to
    the lowest index; zero: at 0, which with one step is the mean of clipped vectors."""

    def rule(self, matrix: ClientMatrix) -> torch.Tensor:
        """Return v, shape (D,)."""
        return matrix.combine(self._from_majority(matrix) if self.start == "majority" else self._from_zero(matrix))

    def _from_majority(self, matrix: ClientMatrix) -> torch.Tensor:
        gram = matrix.gram()
        weights = torch.zeros(len(gram), dtype=torch.float64)
        weights[central_row(gram)[0]] = 1.0
        for _ in range(self.steps):
            weights = self._step(weights, squared_distances_to(gram, weights).sqrt())
        return weights

    def _from_zero(self, matrix: ClientMatrix) -> torch.Tensor:
        """A pass for each step: 0 is not a mean of the vectors, so distances between them do not say how far it is."""
        weights = torch.zeros(matrix.num_vectors, dtype=torch.float64)
        distances = matrix.norms()
        for step in range(self.steps):
            weights = self._step(weights, distances if step == 0 else matrix.squared_distances_to(weights).sqrt())
        return weights

    def _step(self, weights: torch.Tensor, distances: torch.Tensor) -> torch.Tensor:
        factors = self._factors(distances)
        # the step in terms of weights: v is Σ w_i x_i all the time, and no vector is touched before the end
        return weights * (1.0 - factors.sum() / len(factors)) + factors / len(factors)

    def _factors(self, distances: torch.Tensor) -> torch.Tensor:
        if self.radius == "infinite":
            return torch.ones_like(distances)
        return torch.where(distances > self.radius, ratio(torch.full_like(distances, self.radius), distances), 1.0)
