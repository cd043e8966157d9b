"""Pareto times: heavy tails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from ppfl.interfaces.compute_times import RandomComputeTimes

if TYPE_CHECKING:
    import numpy as np

    from ppfl.core.plugins import Example


class Pareto(RandomComputeTimes):
    """t = mean · x, P(x > s) = (s α/(α − 1))^−α for s ≥ (α − 1)/α."""

    name: Literal["pareto"]
    example: ClassVar[Example] = {"alpha": 3.0}
    alpha: Annotated[float, Field(gt=1)] = 2.0
    """α, exponent of the tail; the variance is infinite up to 2."""

    def draw(self, generator: np.random.Generator, size: int) -> np.ndarray:
        """Draw; NumPy's own Pareto law begins at 0."""
        return (1.0 + generator.pareto(self.alpha, size)) * (self.alpha - 1.0) / self.alpha
