"""Personal layers at the output, trained together with the shared ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ppfl.algorithms._simultaneous import Simultaneous

if TYPE_CHECKING:
    from ppfl.interfaces.split import Splits


class FedPer(Simultaneous):
    """(θ_m, w_m) ← (θ_m, w_m) − η ∇f_B(θ_m, w_m), H times, w the last layers;  θ ← θ − direction(θ − θ_m).

    Source: Arivazhagan et al., 2019, Algorithms 1 and 2. It is `fedsim`, for splits that keep the output side local.
    """

    name: Literal["fedper"]
    splits: ClassVar[Splits] = "output side"
    instead: ClassVar[str] = "fedsim"
