"""Comparative gradient elimination."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import NonNegativeInt

from ppfl.interfaces.aggregator import Aggregator
from ppfl.interfaces.pre_aggregator import Bound, majority
from ppfl.rows.gram import mean_of, smallest

if TYPE_CHECKING:
    import torch

    from ppfl.core.plugins import Example
    from ppfl.rows.client_matrix import ClientMatrix


class CGE(Aggregator):
    """Mean of the N − f vectors of smallest norm.

    Source: Gupta, Liu, Vaidya, arXiv 2008.04699 (2020), the gradient filter CGE. Ties go to the lowest index, and
    vectors that `before` clips to the same norm are tied.
    """

    name: Literal["cge"]
    example: ClassVar[Example] = {"f": 1}
    f: NonNegativeInt
    """Byzantine vectors at most."""

    def bound(self) -> Bound:
        """f < N/2."""
        return majority(self.f)

    def rule(self, matrix: ClientMatrix) -> torch.Tensor:
        """Return the mean, shape (D,)."""
        kept = smallest(matrix.exact_norms()[None, :], matrix.num_vectors - self.f)
        return matrix.combine(mean_of(kept[0]))
