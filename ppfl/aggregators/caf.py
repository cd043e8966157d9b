"""The covariance-bound agnostic filter."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import NonNegativeInt

from ppfl.interfaces.aggregator import Aggregator
from ppfl.interfaces.pre_aggregator import Bound, majority
from ppfl.rows.gram import around

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.rows.client_matrix import ClientMatrix


class CAF(Aggregator):
    """μ_c of least λ_max, while c_i ← c_i (1 − τ_i/max_j τ_j), τ_i = ⟨x_i − μ_c, v⟩², until Σ c_i <= N − 2f.

    μ_c is the mean with weights c, which begin at 1, and v the eigenvector of λ_max of the covariance with weights c.
    Source: Allouah, Guerraoui, Stephan, ICML 2025, Algorithm 2 (CAF). The eigenvector is exact, from the N×N Gram
    matrix; the maximum is over vectors with c_j > 0, so that each step takes at least one of them out.
    """

    name: Literal["caf"]
    example: ClassVar[Example] = {"f": 1}
    f: NonNegativeInt
    """Byzantine vectors at most."""

    def bound(self) -> Bound:
        """f < N/2."""
        return majority(self.f)

    def rule(self, matrix: ClientMatrix) -> torch.Tensor:
        """Return μ_c, shape (D,)."""
        gram = matrix.gram()
        number = len(gram)
        weights = torch.ones(number, dtype=torch.float64)
        best, least = weights / number, torch.inf
        # each step takes one vector out at least, so that there are at most N of them
        while self.f > 0 and weights.sum() > number - 2 * self.f:
            mean = weights / weights.sum()
            inner = around(gram, mean)
            # √c on both sides keeps the matrix symmetric, and its eigenvalues are those of the weighted covariance
            roots = mean.sqrt()
            values, vectors = torch.linalg.eigh(roots[:, None] * inner * roots)
            if values[-1] < least:
                best, least = mean, float(values[-1])
            projections = torch.where(weights > 0, (inner @ (roots * vectors[:, -1])).square(), 0.0)
            # all that is left is one point
            if projections.max() == 0:
                break
            weights = (weights * (1.0 - projections / projections.max())).clamp_min(0.0)
        return matrix.combine(best)
