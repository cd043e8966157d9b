"""Links whose bandwidth never changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ppfl.interfaces.links import Direction, SteadyLinks

if TYPE_CHECKING:
    from ppfl.core.plugins import Example


class Constant(SteadyLinks):
    """b = the bandwidth of the client in that direction."""

    name: Literal["constant"]
    example: ClassVar[Example] = {"up_bits_per_second": 1e5, "down_bits_per_second": 1e6, "latency_seconds": 0.1}

    def factor(self, direction: Direction, seed: int, client: int, job: int) -> float:
        """Return 1."""
        return 1.0
