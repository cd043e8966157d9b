"""Centred clipping."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import PositiveFloat, PositiveInt

from ppfl.core.aggregator import Aggregator
from ppfl.core.gram import central_row, squared_distances_to
from ppfl.core.params import ratio

if TYPE_CHECKING:
    from ppfl.core.client_matrix import ClientMatrix


class CenteredClipping(Aggregator):
    """v ← v + (1/N) Σ_i (x_i − v) min(1, radius/‖x_i − v‖), `steps` times.

    Source: Karimireddy, He, Jaggi, ICML 2021, Algorithm 2. There v begins at the aggregate of the round before; here,
    so that the rule has no memory, at the vector in the midst of the majority: the one with the smallest ball around it
    that holds ⌊N/2⌋ + 1 vectors, ties to the lowest index.
    """

    by_distances: ClassVar[bool] = True
    name: Literal["centered_clipping"]
    radius: PositiveFloat | Literal["infinite"]
    """Farthest that one vector pulls; `infinite` makes it the mean."""
    steps: PositiveInt = 3
    """Steps."""

    def rule(self, matrix: ClientMatrix) -> torch.Tensor:
        """Return v, shape (D,)."""
        gram = matrix.gram()
        number = len(gram)
        weights = torch.zeros(number, dtype=torch.float64)
        weights[central_row(gram)[0]] = 1.0
        for _ in range(self.steps):
            factors = self._factors(squared_distances_to(gram, weights).sqrt())
            weights = weights * (1.0 - factors.sum() / number) + factors / number
        return matrix.combine(weights)

    def _factors(self, distances: torch.Tensor) -> torch.Tensor:
        if self.radius == "infinite":
            return torch.ones_like(distances)
        return torch.where(distances > self.radius, ratio(torch.full_like(distances, self.radius), distances), 1.0)
