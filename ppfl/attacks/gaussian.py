"""Noise in the place of vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import PositiveFloat

from ppfl.core import devices
from ppfl.interfaces.attack import AttackOnVectors, Block, Knowledge
from ppfl.rows import client_rows

if TYPE_CHECKING:
    from ppfl.core.plugins import Example

_PURPOSE = "gaussian attack"
_MAX_BLOCKS = 2**32


class Gaussian(AttackOnVectors):
    """x_a ~ N(0, standard_deviation² I), drawn anew for every attacker and round.

    Source: Blanchard et al., NeurIPS 2017, Section 6, with a standard deviation of 200. Keyed (seed, round, query
    point, attacker, block of columns), so that ranks draw what belongs to their columns.
    """

    name: Literal["gaussian"]
    example: ClassVar[Example] = {"standard_deviation": 3.0}
    standard_deviation: PositiveFloat
    """Of every entry."""

    def vectors(self, block: Block, knowledge: Knowledge) -> torch.Tensor:
        """Return the draws."""
        draws = torch.empty(block.own.shape, dtype=torch.float64)
        for attacker, row in enumerate(draws):
            for number, piece in enumerate(torch.split(row, client_rows.BLOCK_COLUMNS), block.number):
                # a stream for each attacker and block, so that it does not matter which rank or device has the block
                key = attacker * _MAX_BLOCKS + number
                draw = knowledge.key.generator(_PURPOSE, key)
                piece.copy_(torch.from_numpy(draw.standard_normal(len(piece)) * self.standard_deviation))
        return devices.to_device(draws, block.own.device)
