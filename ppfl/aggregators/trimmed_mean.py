"""The coordinate-wise trimmed mean."""

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


class TrimmedMean(Aggregator):
    """Mean of each coordinate without its f smallest and its f largest values.

    Source: Yin et al., ICML 2018, Algorithm 1 (option II).
    """

    name: Literal["trimmed_mean"]
    example: ClassVar[Example] = {"f": 1}
    f: NonNegativeInt
    """Byzantine vectors at most."""

    def bound(self) -> Bound:
        """f < N/2."""
        return majority(self.f)

    def rule(self, matrix: ClientMatrix) -> torch.Tensor:
        """Return the trimmed means, shape (D,)."""
        return matrix.coordinatewise(lambda block: order_statistics.trimmed_mean(block, self.f, overwrite=True))
