"""Min-max: no farther from an honest vector than these are from each other."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from ppfl.attacks._among_honest import AmongHonest

if TYPE_CHECKING:
    from ppfl.attacks._among_honest import Geometry


class MinMax(AmongHonest):
    """x_a ← μ + γp with the largest γ for which max_i ‖x_a − x_i‖ ≤ max_ij ‖x_i − x_j‖ over the honest vectors.

    Source: Shejwalkar & Houmansadr, NDSS 2021, the attack Min-Max: attackers know the honest vectors, and of the
    server's rule nothing.
    """

    name: Literal["min_max"]

    def largest(self, seen: Geometry) -> float:
        """Return the least over i of the larger root γ of ‖μ + γp − x_i‖² = max_ij ‖x_i − x_j‖², a quadratic in γ."""
        # the mean is within that distance of everybody, but for rounding
        room = (seen.distances.max() - seen.radii).clamp_min(0.0)
        # along p/‖p‖, since ‖p‖² times a square overflows long before squares do
        length = math.sqrt(seen.length)
        along = seen.along / length
        roots = along + (along.square() + room).sqrt()
        return float(roots.min().clamp_min(0.0)) / length
