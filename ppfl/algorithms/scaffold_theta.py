"""Stochastic controlled averaging of the shared parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ppfl.algorithms._control_variates import ControlVariates

if TYPE_CHECKING:
    from ppfl.interfaces.split import Splits


class ScaffoldTheta(ControlVariates):
    """θ_m ← θ_m − η (∇_1 f_B(θ_m, w_m) − c_m + c), w_m ← w_m − η ∇_2 f_B(θ_m, w_m), H times from (θ, w_m).

    Source: Karimireddy et al., ICML 2020, Algorithm 1 with option II, its control variates on θ alone: `scaffold`,
    but never without local parameters.
    """

    name: Literal["scaffold_theta"]
    splits: ClassVar[Splits] = "something local"
    instead: ClassVar[str] = "scaffold"
