"""No decay."""

from __future__ import annotations

from typing import Literal

from ppfl.interfaces.schedule import Schedule


class Constant(Schedule):
    """factor = 1 after the warm-up."""

    name: Literal["constant"]

    def after_warmup(self, round: int, num_rounds: int) -> float:
        """Return 1."""
        return 1.0
