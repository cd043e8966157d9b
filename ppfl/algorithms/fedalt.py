"""Partial personalization with alternating updates."""

from __future__ import annotations

from typing import Literal

from ppfl.algorithms._alternating import Alternating


class FedAlt(Alternating):
    """w_m ← tune(θ, w_m);  θ_m ← θ_m − η ∇_1 f_B(θ_m, w_m), H times from θ with w_m fixed;  θ ← θ − direction(θ − θ_m).

    Source: Pillutla et al., ICML 2022 (FedAlt). With nothing local it is FedAvg; with H = 1 on all data of
    the round it is FFGG.
    """

    name: Literal["fedalt"]
