"""A penalty on the shared parameters instead of averaging, and a coin instead of rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ppfl.algorithms._penalized_mixture import PenalizedMixture

if TYPE_CHECKING:
    from ppfl.interfaces.split import Splits


class L2GDTheta(PenalizedMixture):
    """(θ_m, w_m) ← (θ_m, w_m) − α/(M(1−p)) ∇f_m(θ_m, w_m) with probability 1 − p, else θ_m ← θ_m − αλ/(Mp) (θ_m − θ̄).

    Source: Hanzely & Richtárik, 2020, Algorithm 1, its penalty on θ_m alone: `l2gd`, but never without local
    parameters. (θ_m, w_m) is deployed.
    """

    name: Literal["l2gd_theta"]
    splits: ClassVar[Splits] = "something local"
    instead: ClassVar[str] = "l2gd"
