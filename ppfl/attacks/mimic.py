"""Mimicking one honest client."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import NonNegativeInt

from ppfl.interfaces.attack import AttackOnVectors, Block, Knowledge

if TYPE_CHECKING:
    import torch

    from ppfl.core.plugins import Example


class Mimic(AttackOnVectors):
    """x_a ← x_j of one honest client j: nothing looks wrong, and j counts for many.

    Source: Karimireddy, He, Jaggi, ICLR 2022, Section 4. There j is learnt in rounds of warm-up; here it is given.
    """

    name: Literal["mimic"]
    example: ClassVar[Example] = {"client": 1}
    client: NonNegativeInt = 0
    """j: number among the honest clients of a round, modulo how many there are."""

    def vectors(self, block: Block, knowledge: Knowledge) -> torch.Tensor:
        """Return x_j."""
        row = self.client % len(block.honest)
        return block.honest[row : row + 1]
