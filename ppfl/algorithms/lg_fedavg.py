"""Personal layers at the input, trained together with the shared ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ppfl.algorithms._simultaneous import Simultaneous

if TYPE_CHECKING:
    from ppfl.interfaces.split import Splits


class LGFedAvg(Simultaneous):
    """(θ_m, w_m) ← (θ_m, w_m) − η ∇f_B(θ_m, w_m), H times, w the first layers;  θ ← θ − direction(θ − θ_m).

    Source: Liang et al., "Think Locally, Act Globally", 2020, Algorithm 1. It is `fedsim`, for splits that keep the
    input side local.
    """

    name: Literal["lg_fedavg"]
    splits: ClassVar[Splits] = "input side"
    instead: ClassVar[str] = "fedsim"
