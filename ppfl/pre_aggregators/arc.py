"""Adaptive robust clipping of norms."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import NonNegativeInt

from ppfl.interfaces.pre_aggregator import Bound, NormClipping, majority

if TYPE_CHECKING:
    import torch

    from ppfl.core.plugins import Example


class ARC(NormClipping):
    """y_i = x_i · min(1, c/‖x_i‖), c the (k + 1)-th largest norm, k = ⌊2 (f/N) (N − f)⌋: the k largest are clipped.

    Source: Allouah et al., ICLR 2025, Algorithm 2.
    """

    name: Literal["arc"]
    example: ClassVar[Example] = {"f": 1}
    f: NonNegativeInt
    """Byzantine vectors at most; the rule's when left out."""

    def bound(self) -> Bound:
        """f < N/2."""
        return majority(self.f)

    def largest(self, norms: torch.Tensor) -> torch.Tensor:
        """Return the (k + 1)-th largest norm."""
        number = len(norms)
        # in integers: f/N as a float could floor to one less
        num_clipped = 2 * self.f * (number - self.f) // number
        return norms.sort(descending=True).values[num_clipped]
