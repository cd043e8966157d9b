"""A penalty instead of averaging, and a coin instead of rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ppfl.algorithms._penalized_mixture import PenalizedMixture

if TYPE_CHECKING:
    from ppfl.interfaces.split import Splits


class L2GD(PenalizedMixture):
    """x_m ← x_m − α/(M(1−p)) ∇f_m(x_m) with probability 1 − p, else x_m ← x_m − αλ/(Mp) (x_m − x̄);  x̄ the mean.

    Source: Hanzely & Richtárik, 2020, Algorithm 1, for min (1/M) Σ f_m(x_m) + λ/(2M) Σ ‖x_m − x̄‖². Everything is
    shared, and x_m is deployed.
    """

    name: Literal["l2gd"]
    splits: ClassVar[Splits] = "all shared"
    instead: ClassVar[str] = "l2gd_theta"
