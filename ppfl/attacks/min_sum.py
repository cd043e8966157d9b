"""Min-sum: no larger a sum of squared distances than that of an honest vector."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from ppfl.attacks._among_honest import AmongHonest

if TYPE_CHECKING:
    from ppfl.attacks._among_honest import Geometry


class MinSum(AmongHonest):
    """x_a ← μ + γp with the largest γ for which Σ_i ‖x_a − x_i‖² ≤ max_j Σ_i ‖x_j − x_i‖² over the honest vectors.

    Source: Shejwalkar & Houmansadr, NDSS 2021, the attack Min-Sum: attackers know the honest vectors, and of the
    server's rule nothing.
    """

    name: Literal["min_sum"]

    def largest(self, seen: Geometry) -> float:
        """Return max_j ‖x_j − μ‖/‖p‖: sums of squared distances from a point grow with that to the mean alone."""
        # a root each: where ‖p‖² is tiny the quotient of the squares overflows, though γ is a number
        return float(seen.radii.max().clamp_min(0.0).sqrt()) / math.sqrt(seen.length)
