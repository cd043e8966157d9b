"""Partial personalization with simultaneous updates."""

from __future__ import annotations

from typing import Literal

from ppfl.algorithms._simultaneous import Simultaneous


class FedSim(Simultaneous):
    """(θ_m, w_m) ← (θ_m, w_m) − η ∇f_B(θ_m, w_m), H times from (θ, w_m);  θ ← θ − direction(θ − θ_m).

    Source: Pillutla et al., ICML 2022 (FedSim), one step size for both. With nothing local it is FedAvg,
    with everything local it is local_only.
    """

    name: Literal["fedsim"]
