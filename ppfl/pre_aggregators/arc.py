"""Adaptive robust clipping of norms."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import NonNegativeInt

from ppfl.core.params import ratio
from ppfl.core.pre_aggregator import Bound, Moment, PreAggregator, majority

if TYPE_CHECKING:
    from ppfl.core.client_matrix import ClientMatrix
    from ppfl.core.client_rows import Reads
    from ppfl.core.plugins import Example


class ARC(PreAggregator):
    """y_i = x_i · min(1, c/‖x_i‖), c the (k + 1)-th largest norm, k = ⌊2 (f/N) (N − f)⌋: the k largest are clipped.

    Source: Allouah et al., ICLR 2025, Algorithm 2.
    """

    reads: ClassVar[Reads] = "norms"
    name: Literal["arc"]
    example: ClassVar[Example] = {"f": 1}
    f: NonNegativeInt
    """Byzantine vectors at most; the rule's when left out."""

    def bound(self) -> Bound:
        """f < N/2."""
        return majority(self.f)

    def mixing(self, matrix: ClientMatrix, moment: Moment) -> torch.Tensor:
        """Return the factors, on the diagonal."""
        number = matrix.num_vectors
        norms = matrix.norms()
        num_clipped = 2 * self.f * (number - self.f) // number
        threshold = norms.sort(descending=True).values[num_clipped]
        return torch.diag(torch.where(norms > threshold, ratio(threshold, norms), 1.0))
