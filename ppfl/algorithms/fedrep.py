"""Shared representations under personal heads."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ppfl.algorithms._alternating import Alternating

if TYPE_CHECKING:
    from ppfl.interfaces.split import Splits


class FedRep(Alternating):
    """w_m ← tune(θ, w_m), w the last layers;  θ_m ← θ_m − η ∇_1 f_B(θ_m, w_m), H times;  θ ← θ − direction(θ − θ_m).

    Source: Collins et al., ICML 2021, Algorithm 1: many steps on the head, then few (there one) on the body. It is
    `fedalt`, for splits that keep the output side local.
    """

    name: Literal["fedrep"]
    splits: ClassVar[Splits] = "output side"
    instead: ClassVar[str] = "fedalt"
