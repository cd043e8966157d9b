"""Inner-product manipulation (IPM)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import PositiveFloat

from ppfl.interfaces.attack import AttackOnVectors, Block, Knowledge, worst_factor

if TYPE_CHECKING:
    import torch

    from ppfl.core.plugins import Example
    from ppfl.rows.client_matrix import ClientMatrix


class InnerProduct(AttackOnVectors):
    """x_a ← −factor · (mean of the honest vectors).

    Source: Xie, Koyejo, Gupta, UAI 2019. `optimal`: the factor that takes the aggregate of this round farthest from
    the honest mean (Shejwalkar & Houmansadr, NDSS 2021), by a line search of 16 aggregations.
    """

    name: Literal["inner_product"]
    example: ClassVar[Example] = {"factor": 0.5}
    factor: PositiveFloat | Literal["optimal"]
    """ε; a small one passes for honest, a large one turns the mean around."""

    def prepare(self, matrix: ClientMatrix, byzantine: torch.Tensor, knowledge: Knowledge) -> AttackOnVectors:
        """Choose the factor. Collective."""
        if self.factor != "optimal":
            return self
        found = worst_factor(lambda x: self.model_copy(update={"factor": x}), matrix, byzantine, knowledge)
        return self.model_copy(update={"factor": found})

    def vectors(self, block: Block, knowledge: Knowledge) -> torch.Tensor:
        """Return −factor · mean."""
        assert self.factor != "optimal"
        return -self.factor * block.honest.mean(dim=0, keepdim=True)
