"""Links whose bandwidth changes from message to message: mostly alike, now and then far less."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from ppfl.interfaces.links import Direction, SteadyLinks
from ppfl.interfaces.network import normal

if TYPE_CHECKING:
    from ppfl.core.plugins import Example


class LogNormal(SteadyLinks):
    """b = the bandwidth of the client in that direction, times exp(σz − σ²/2), z ~ N(0, 1) drawn for each message."""

    name: Literal["log_normal"]
    example: ClassVar[Example] = {"up_bits_per_second": 1e5, "down_bits_per_second": 1e6, "sigma": 0.5}
    sigma: Annotated[float, Field(gt=0, le=5)] = 1.0
    """σ, standard deviation of log b."""

    def factor(self, direction: Direction, seed: int, client: int, job: int) -> float:
        """Return exp(σz − σ²/2)."""
        return math.exp(self.sigma * normal(seed, f"network bandwidth {direction}", client, job) - self.sigma**2 / 2)
