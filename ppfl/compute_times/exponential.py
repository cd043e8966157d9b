"""Memoryless times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ppfl.interfaces.compute_times import RandomComputeTimes

if TYPE_CHECKING:
    import numpy as np


class Exponential(RandomComputeTimes):
    """t = mean · x, x ~ Exp(1).

    Source: the usual model of stragglers, e.g. Lee et al., IEEE Transactions on Information Theory 2018.
    """

    name: Literal["exponential"]

    def draw(self, generator: np.random.Generator, size: int) -> np.ndarray:
        """Draw from Exp(1)."""
        return generator.standard_exponential(size)
