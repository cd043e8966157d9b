"""Flipped labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from ppfl.interfaces.attack import AttackOnData

if TYPE_CHECKING:
    from ppfl.core.types import Data


class LabelFlip(AttackOnData):
    """y ← num_classes − 1 − y in all that a Byzantine client trains on; it then works as an honest one does.

    Source: Allen-Zhu et al., ICLR 2021, Section 5; for clients of a problem that has labels.
    """

    name: Literal["label_flip"]

    def poison(self, data: Data, num_classes: int) -> Data:
        """Return the data with flipped labels."""
        return {**data, "y": num_classes - 1 - data["y"]}
