"""The mean of the nearest neighbours of one vector."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import NonNegativeInt

from ppfl.interfaces.aggregator import Aggregator
from ppfl.interfaces.pre_aggregator import Bound, majority
from ppfl.rows.gram import central_row, mean_of, smallest, squared_distances

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.rows.client_matrix import ClientMatrix


class MoNNA(Aggregator):
    """Mean of the N − f vectors nearest to a pivot, itself among them.

    Source: Farhadkhani et al., ICML 2023, Algorithm 1. There nodes talk to each other, and the pivot is a node's own
    vector; a server has none that it can trust, so here it is the vector in the midst of the majority: the one with the
    smallest ball around it that holds ⌊N/2⌋ + 1 vectors. Ties go to the lowest index.
    """

    name: Literal["monna"]
    example: ClassVar[Example] = {"f": 1}
    f: NonNegativeInt
    """Byzantine vectors at most."""

    def bound(self) -> Bound:
        """f < N/2."""
        return majority(self.f)

    def rule(self, matrix: ClientMatrix) -> torch.Tensor:
        """Return the mean, shape (D,)."""
        gram = matrix.gram()
        from_pivot = squared_distances(gram)[central_row(gram)[0]]
        return matrix.combine(mean_of(smallest(from_pivot[None, :], len(gram) - self.f)[0]))
