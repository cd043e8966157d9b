"""Inner-product manipulation (IPM)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import PositiveFloat

from ppfl.interfaces.attack import Block, Knowledge
from ppfl.interfaces.attack_with_factor import AttackWithFactor

if TYPE_CHECKING:
    import torch

    from ppfl.core.plugins import Example


class InnerProduct(AttackWithFactor):
    """x_a ← −factor · (mean of the honest vectors).

    Source: Xie, Koyejo, Gupta, UAI 2019. `optimal`: the factor that takes the aggregate of this round farthest from
    the honest mean (Shejwalkar & Houmansadr, NDSS 2021), by a line search of 16 aggregations.
    """

    name: Literal["inner_product"]
    example: ClassVar[Example] = {"factor": 0.5}
    factor: PositiveFloat | Literal["optimal"]
    """ε; a small one passes for honest, a large one turns the mean around."""

    def vectors(self, block: Block, knowledge: Knowledge) -> torch.Tensor:
        """Return −factor · mean."""
        return -self.number * block.honest.mean(dim=0, keepdim=True)
