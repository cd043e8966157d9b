"""The coordinate-wise median."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ppfl.interfaces.aggregator import Aggregator
from ppfl.rows import order_statistics

if TYPE_CHECKING:
    import torch

    from ppfl.rows.client_matrix import ClientMatrix


class Median(Aggregator):
    """Median of each coordinate; of an even number of values the mean of the two in the middle.

    Source: Yin et al., ICML 2018, Algorithm 1 (option I).
    """

    name: Literal["median"]

    def rule(self, matrix: ClientMatrix) -> torch.Tensor:
        """Return the medians, shape (D,)."""
        return matrix.coordinatewise(lambda block: order_statistics.median(block, overwrite=True))
