"""What is known of a problem beside what a client can compute: curvatures, and where the solution is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ppfl.core.types import Params


@dataclass(frozen=True)
class Constants:
    """Curvatures of a problem that knows them, over all honest clients.

    smoothness: max_m λ_max(Hessian of F_m), exact w. joint_smoothness: max_m λ_max(∇²_11 f_m), inexact w.
    mean_smoothness: λ_max(mean Hessian of F_m). strong_convexity: λ_min of the same. local_smoothness: max_m
    λ_max(∇²_22 f_m). whole_smoothness: max_m λ_max(∇² f_m), θ and w taken together.
    """

    smoothness: float
    joint_smoothness: float
    mean_smoothness: float
    strong_convexity: float
    local_smoothness: float
    whole_smoothness: float


class Theory:
    """What is known of the minimum of the mean of F_m(θ) = min_w f_m(θ, w) over honest clients; here, nothing.

    >>> import torch
    >>> from ppfl.interfaces.theory import Constants, Theory
    >>> class Parabola(Theory):
    ...     def constants(self):
    ...         return Constants(1.0, 1.0, 1.0, 1.0, local_smoothness=0.0, whole_smoothness=1.0)
    ...
    ...     def solution(self):
    ...         return {"theta": torch.zeros(2)}
    ...
    ...     def facts(self):
    ...         return {"L": self.constants().smoothness}
    >>> Parabola().facts(), Theory().facts()
    ({'L': 1.0}, {})
    """

    def constants(self) -> Constants | None:
        """Return curvatures, for `lr: theory` and for refusing steps that must diverge; None when unknown."""
        return None

    def solution(self) -> Params | None:
        """Return θ*, the minimizer of the mean of F_m, where it is known, and with it `exact_local`; None elsewhere."""
        return None

    def facts(self) -> dict[str, float]:
        """Return numbers about the problem worth storing with a result, e.g. L, μ, σ*²."""
        return {}
