"""BEER: compressed messages and gradient tracking."""

from __future__ import annotations

from typing import Literal

from ppfl.algorithms._tracking import CompressedTracking


class Beer(CompressedTracking):
    """x_i ← x_i + γ Σ_j w_ij (H_j − H_i) − ηV_i;  V_i ← V_i + γ Σ_j w_ij (G_j − G_i) + g_i − g_i of before,
    H_i ← H_i + C(x_i − H_i),  G_i ← G_i + C(V_i − G_i).

    Source: Zhao, Li, Li, Richtárik, Chi, NeurIPS 2022, Algorithm 1, as MoTEF (2405.20114) has it: λ = 1 of it.
    """

    name: Literal["beer"]

    @property
    def level(self) -> float:
        """1."""
        return 1.0
