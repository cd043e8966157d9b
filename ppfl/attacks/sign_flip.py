"""Flipped signs."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import PositiveFloat

from ppfl.interfaces.attack import Block, Knowledge
from ppfl.interfaces.attack_with_factor import AttackWithFactor

if TYPE_CHECKING:
    import torch

    from ppfl.core.plugins import Example


class SignFlip(AttackWithFactor):
    """x_a ← −factor · x_a: attackers send the opposite of what they would have sent.

    Source: Li et al., AAAI 2019 (RSA), Section 5. Attackers beside the problem's clients have no data: each takes the
    vector of an honest client, the first attacker that of the first client of the round.
    `optimal`: the factor that takes the aggregate of this round farthest from the honest mean, by a line search of 16
    aggregations.
    """

    name: Literal["sign_flip"]
    example: ClassVar[Example] = {"factor": 4.0}
    factor: PositiveFloat | Literal["optimal"] = 1.0
    """Length of what is sent, in terms of the honest vector."""

    def vectors(self, block: Block, knowledge: Knowledge) -> torch.Tensor:
        """Return −factor · x_a."""
        return -self.number * block.own
