"""The coordinate-wise mean around the median."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import NonNegativeInt

from ppfl.interfaces.aggregator import Aggregator
from ppfl.interfaces.pre_aggregator import Bound, majority
from ppfl.rows import order_statistics

if TYPE_CHECKING:
    import torch

    from ppfl.core.plugins import Example
    from ppfl.rows.client_matrix import ClientMatrix


class Meamed(Aggregator):
    """Mean of the N − f values of each coordinate that are nearest to its median.

    Source: Xie, Koyejo, Gupta, arXiv 1802.10116, Definition 9 (mean around median). Ties go to the lowest index.
    """

    name: Literal["meamed"]
    example: ClassVar[Example] = {"f": 1}
    f: NonNegativeInt
    """Byzantine vectors at most."""

    def bound(self) -> Bound:
        """f < N/2."""
        return majority(self.f)

    def rule(self, matrix: ClientMatrix) -> torch.Tensor:
        """Return the means, shape (D,)."""
        count = matrix.num_vectors - self.f
        return matrix.coordinatewise(lambda block: order_statistics.mean_around_median(block, count), exact=True)
