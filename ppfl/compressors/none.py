"""No compression."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ppfl.interfaces.compressor import Compressor

if TYPE_CHECKING:
    import torch

    from ppfl.core.types import Draws, Params


class NoCompression(Compressor):
    """C(x) = x, bit by bit; α = 1."""

    name: Literal["none"]

    def contraction(self, size: int) -> float:
        """Return 1."""
        return 1.0

    def encode(self, x: torch.Tensor, draws: Draws) -> Params:
        """Return x."""
        return {"values": x}

    def decode(self, message: Params, size: int, dtype: torch.dtype) -> torch.Tensor:
        """Return x."""
        return message["values"]
