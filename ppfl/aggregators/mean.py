"""The mean: the only rule that accepts weights and that needs no row."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from ppfl.core.method import Aggregator

if TYPE_CHECKING:
    from ppfl.core.client_matrix import ClientMatrix


class Mean(Aggregator):
    """(1/N) Σ_m x_m, or Σ_m p_m x_m with the run's weights p.

    Source: McMahan et al., AISTATS 2017. The engine accumulates it without keeping any row; called on a matrix it
    gives every row the same weight.
    """

    name: Literal["mean"]
    linear: ClassVar[bool] = True

    def __call__(self, matrix: ClientMatrix) -> torch.Tensor:
        """Return the mean of the rows, shape (D,)."""
        return matrix.combine(torch.full((matrix.num_vectors,), 1.0 / matrix.num_vectors, dtype=torch.float64))
