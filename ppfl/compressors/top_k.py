"""Top-k: the k entries of largest magnitude."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from ppfl.core.bit_packing import pack, unpack
from ppfl.interfaces.compressor import Sparsifier

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.core.types import Draws, Params


class TopK(Sparsifier):
    """C(x) keeps the k largest |x_i|, of equal ones those of lowest index; α = k/D, reached where all are equal.

    Source: Stich, Cordonnier, Jaggi, "Sparsified SGD with Memory", 2018. NaN counts as larger than any number. A
    message has k values and k positions of ⌈log₂ D⌉ bits each, in increasing order.
    """

    name: Literal["top_k"]
    example: ClassVar[Example] = {"share": 0.25}

    def encode(self, x: torch.Tensor, draws: Draws) -> Params:
        """Return values and positions."""
        # `topk` and other orders leave open which of equal entries are taken; NaN comes first in a descending order
        largest = torch.sort(x.abs(), descending=True, stable=True).indices[: self.kept(x.shape[0])]
        # increasing, so that a message does not depend on the order in which magnitudes were found
        positions = torch.sort(largest).values
        return {"values": x[positions], "positions": pack(positions, _width(x.shape[0]))}

    def decode(self, message: Params, size: int, dtype: torch.dtype) -> torch.Tensor:
        """Return the values where they were, 0 elsewhere."""
        values = message["values"]
        positions = unpack(message["positions"], self.kept(size), _width(size))
        return values.new_zeros(size).scatter(0, positions, values)


def _width(size: int) -> int:
    """⌈log₂ D⌉, 0 for D = 1."""
    return (size - 1).bit_length()
