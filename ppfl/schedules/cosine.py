"""Cosine decay."""

from __future__ import annotations

import math
from typing import Literal

from ppfl.interfaces.schedule import Decay


class Cosine(Decay):
    """factor = end + (1 − end)(1 + cos πu)/2, u = (t − W)/(H − W).

    Source: Loshchilov & Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017, Equation 5, without
    restarts.
    """

    name: Literal["cosine"]

    def shape(self, way: float) -> float:
        """Return (1 + cos πu)/2."""
        return (1.0 + math.cos(math.pi * way)) / 2.0
