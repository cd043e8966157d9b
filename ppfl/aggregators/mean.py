"""The mean: the only rule that accepts weights and that needs no row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from ppfl.core.aggregator import Aggregator, NotFiniteError

if TYPE_CHECKING:
    from ppfl.core.client_matrix import ClientMatrix
    from ppfl.core.pre_aggregator import Moment


class Mean(Aggregator):
    """(1/N) Σ_m x_m, or Σ_m p_m x_m with the run's weights p.

    Source: McMahan et al., AISTATS 2017. With nothing before it the engine accumulates it without keeping any row,
    unless there is an attack, and NaN and inf are not forgiven; called on a matrix it gives every row the same weight.
    """

    name: Literal["mean"]

    @property
    def linear(self) -> bool:
        """True with nothing before it."""
        return not self.before

    def __call__(self, matrix: ClientMatrix, moment: Moment) -> torch.Tensor:
        """Return the mean; raises NotFiniteError when a vector has NaN or inf and nothing comes before the mean."""
        if self.linear and not matrix.finite().all():
            raise NotFiniteError((~matrix.finite()).nonzero()[:, 0].tolist())
        return super().__call__(matrix, moment)

    def rule(self, matrix: ClientMatrix) -> torch.Tensor:
        """Return the mean of the rows, shape (D,)."""
        return matrix.combine(torch.full((matrix.num_vectors,), 1.0 / matrix.num_vectors, dtype=torch.float64))
