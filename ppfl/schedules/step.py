"""Decay in steps."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt

from ppfl.core.plugins import Example
from ppfl.interfaces.schedule import Schedule


class Step(Schedule):
    """factor = decay^⌊(t − W)/every⌋.

    Source: the usual decay in steps, e.g. He et al., "Deep Residual Learning for Image Recognition", CVPR 2016,
    Section 3.4.
    """

    name: Literal["step"]
    example: ClassVar[Example] = {"every": 3, "decay": 0.5}
    every: PositiveInt
    """Rounds with the same step."""
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Factor from each of these stretches to the next."""

    def after_warmup(self, round: int, num_rounds: int) -> float:
        """Return decay to the number of whole stretches behind."""
        return float(self.decay ** ((round - self.warmup) // self.every))
