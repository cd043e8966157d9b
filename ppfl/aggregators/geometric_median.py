"""The geometric median."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import PositiveFloat, PositiveInt

from ppfl.interfaces.aggregator import Aggregator
from ppfl.rows.gram import central_row, half_around, squared_distances_to

if TYPE_CHECKING:
    from ppfl.rows.client_matrix import ClientMatrix

_CONVERGED = 1e-12


class GeometricMedian(Aggregator):
    """argmin_v Σ_i ‖x_i − v‖, by v ← Σ_i a_i x_i / Σ_i a_i, a_i = 1/max(ν, ‖x_i − v‖).

    Source: Pillutla, Kakade, Harchaoui, IEEE TSP 2022, Algorithm 2 (smoothed Weiszfeld). It begins at the mean of
    the ⌊N/2⌋ + 1 vectors in the smallest ball around one of them, so that attackers far away do not slow it down, and
    ends after `steps`, or when v moves by less than rounding. ν is relative, since vectors shrink as a run converges:
    `smoothing` times the distance from the start within which ⌊N/2⌋ + 1 vectors lie.
    """

    name: Literal["geometric_median"]
    smoothing: PositiveFloat = 1e-6
    """ν, as a fraction of the spread of the majority."""
    steps: PositiveInt = 100
    """Steps at most."""

    def rule(self, matrix: ClientMatrix) -> torch.Tensor:
        """Return v, shape (D,)."""
        gram = matrix.gram()
        weights = half_around(gram, central_row(gram)[0])
        distances = squared_distances_to(gram, weights).sqrt()
        spread = distances.sort().values[len(gram) // 2]
        # a majority of equal vectors: the median is where they are, and ν would be 0
        for _ in range(self.steps if spread > 0 else 0):
            inverse = 1.0 / distances.clamp_min(self.smoothing * spread)
            new = inverse / inverse.sum()
            moved, weights = new - weights, new
            distances = squared_distances_to(gram, weights).sqrt()
            if moved @ gram @ moved <= (_CONVERGED * spread) ** 2:
                break
        return matrix.combine(weights)
