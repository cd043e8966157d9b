"""Static clipping of norms."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import PositiveFloat

from ppfl.interfaces.pre_aggregator import NormClipping

if TYPE_CHECKING:
    import torch

    from ppfl.core.plugins import Example


class Clipping(NormClipping):
    """y_i = x_i · min(1, threshold/‖x_i‖).

    Source: the fixed threshold that adaptive robust clipping is compared with in Allouah et al., ICLR 2025.
    """

    name: Literal["clipping"]
    example: ClassVar[Example] = {"threshold": 2.5}
    threshold: PositiveFloat
    """Largest norm."""

    def largest(self, norms: torch.Tensor) -> torch.Tensor:
        """Return the threshold."""
        return norms.new_tensor(self.threshold)
