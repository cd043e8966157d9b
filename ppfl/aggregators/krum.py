"""Krum: the vector whose neighbours are nearest."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import NonNegativeInt

from ppfl.interfaces.aggregator import Aggregator
from ppfl.interfaces.pre_aggregator import Bound, few_neighbours
from ppfl.rows.gram import krum_scores, mean_of, smallest

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.rows.client_matrix import ClientMatrix


class Krum(Aggregator):
    """x_i with the smallest sum of squared distances to its N − f − 2 nearest other vectors.

    Source: Blanchard et al., NeurIPS 2017, Section 4. Ties go to the lowest index.
    """

    name: Literal["krum"]
    example: ClassVar[Example] = {"f": 1}
    f: NonNegativeInt
    """Byzantine vectors at most."""

    def bound(self) -> Bound:
        """N >= 2f + 3."""
        return few_neighbours(self.f)

    def rule(self, matrix: ClientMatrix) -> torch.Tensor:
        """Return the chosen vector, shape (D,)."""
        scores = krum_scores(matrix.gram(), self.f)
        return matrix.combine(mean_of(smallest(scores[None, :], 1)[0]))
