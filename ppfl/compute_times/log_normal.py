"""Log-normal times: mostly alike, now and then much longer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from ppfl.interfaces.compute_times import RandomComputeTimes

if TYPE_CHECKING:
    from ppfl.core.plugins import Example


class LogNormal(RandomComputeTimes):
    """t = mean · x, x = exp(σz − σ²/2), z ~ N(0, 1)."""

    name: Literal["log_normal"]
    example: ClassVar[Example] = {"sigma": 0.5}
    sigma: Annotated[float, Field(gt=0, le=5)] = 1.0
    """σ, standard deviation of log t."""

    def draw(self, generator: np.random.Generator, size: int) -> np.ndarray:
        """Draw exp(σz − σ²/2)."""
        return np.exp(self.sigma * generator.standard_normal(size) - self.sigma**2 / 2)
