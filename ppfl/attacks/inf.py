"""Infinity."""

from __future__ import annotations

from typing import Literal

import torch

from ppfl.interfaces.attack import AttackOnVectors, Block, Knowledge


class Inf(AttackOnVectors):
    """x_a ← ∞ in every coordinate: one such vector is the end of any mean.

    Source: Guerraoui, Gupta, Pinot, Robust Machine Learning, Springer 2024, Chapter 4. Robust rules leave it out.
    """

    name: Literal["inf"]

    def vectors(self, block: Block, knowledge: Knowledge) -> torch.Tensor:
        """Return ∞."""
        return torch.full_like(block.own, torch.inf)
