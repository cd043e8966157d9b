"""MoTEF: momentum, gradient tracking and compressed messages with error feedback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from ppfl.algorithms._tracking import CompressedTracking

if TYPE_CHECKING:
    from ppfl.core.plugins import Example


class Motef(CompressedTracking):
    """x_i ← x_i + γ Σ_j w_ij (H_j − H_i) − ηV_i,  M_i ← (1−λ)M_i + λg_i;
    V_i ← V_i + γ Σ_j w_ij (G_j − G_i) + M_i − M_i of before;  H_i ← H_i + C(x_i − H_i),  G_i ← G_i + C(V_i − G_i).

    Source: Islamov, Gao, Stich, 2405.20114, Algorithm 1 (MoTEF). M = V = G begin as the gradient at θ_0; the released
    code begins M at 0, which ends elsewhere. New: with local parameters g_i is the gradient of θ at the tuned w_i, as
    in FFGG, and the five vectors are of θ alone.
    """

    name: Literal["motef"]
    example: ClassVar[Example] = {**CompressedTracking.example, "momentum": 0.5}
    momentum: Annotated[float, Field(gt=0, le=1)]
    """λ; with 1 it is BEER."""

    @property
    def level(self) -> float:
        """λ."""
        return self.momentum
