"""Static clipping of norms."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import PositiveFloat

from ppfl.core.params import ratio
from ppfl.core.pre_aggregator import Moment, PreAggregator

if TYPE_CHECKING:
    from ppfl.core.client_matrix import ClientMatrix
    from ppfl.core.client_rows import Reads
    from ppfl.core.plugins import Example


class Clipping(PreAggregator):
    """y_i = x_i · min(1, threshold/‖x_i‖).

    Source: the fixed threshold that adaptive robust clipping is compared with in Allouah et al., ICLR 2025.
    """

    reads: ClassVar[Reads] = "norms"
    name: Literal["clipping"]
    example: ClassVar[Example] = {"threshold": 2.5}
    threshold: PositiveFloat
    """Largest norm."""

    def mixing(self, matrix: ClientMatrix, moment: Moment) -> torch.Tensor:
        """Return the factors, on the diagonal."""
        norms = matrix.norms()
        return torch.diag(torch.where(norms > self.threshold, ratio(norms.new_tensor(self.threshold), norms), 1.0))
