"""Linear decay."""

from __future__ import annotations

from typing import Literal

from ppfl.interfaces.schedule import Decay


class Linear(Decay):
    """factor = end + (1 − end)(1 − u), u = (t − W)/(H − W).

    Source: Defazio et al., "Optimal Linear Decay Learning Rate Schedules and Further Refinements", 2023, Section 1.
    """

    name: Literal["linear"]

    def shape(self, way: float) -> float:
        """Return 1 − u."""
        return 1.0 - way
