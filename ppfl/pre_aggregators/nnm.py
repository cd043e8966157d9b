"""Nearest-neighbour mixing."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import NonNegativeInt

from ppfl.interfaces.pre_aggregator import Bound, PreAggregator, RandomKey, majority
from ppfl.rows.gram import mean_of, smallest, squared_distances

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.rows.client_matrix import ClientMatrix


class NNM(PreAggregator):
    """y_i = mean of the N − f vectors nearest to x_i, itself among them.

    Source: Allouah et al., AISTATS 2023, Algorithm 2. Ties go to the lowest index.
    """

    name: Literal["nnm"]
    example: ClassVar[Example] = {"f": 1}
    f: NonNegativeInt
    """Byzantine vectors at most; the rule's when left out."""

    def bound(self) -> Bound:
        """f < N/2."""
        return majority(self.f)

    def mixing(self, matrix: ClientMatrix, key: RandomKey) -> torch.Tensor:
        """Return 1/(N − f) for each neighbour."""
        distances = squared_distances(matrix.gram())
        return mean_of(smallest(distances, matrix.num_vectors - self.f))
