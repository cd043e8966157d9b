"""What `problem.training` makes of an objective: terms beside the loss, and gradients of a bounded norm."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from ppfl.core.params import add_scaled, inner, map_params, subtract
from ppfl.interfaces.objective import JointPass, SharedPass

if TYPE_CHECKING:
    from ppfl.core.types import Params
    from ppfl.networks.network import SupervisedJointPass, SupervisedPass


@dataclass(frozen=True)
class Terms:
    """(λ_θ/2)‖θ‖² + (λ_w/2)‖w‖² + (μ/2)(‖θ − θ⁰‖² + ‖w − w⁰‖²) + ν Σ_j x_j²/(1 + x_j²) in f_m, x = (θ, w), and
    ‖∇f_m‖ ≤ c for what is differentiated in."""

    shared: float = 0.0
    """λ_θ."""
    local: float = 0.0
    """λ_w."""
    proximal: float = 0.0
    """μ."""
    start: Params = field(default_factory=dict)
    """θ⁰ and w⁰; read where μ > 0."""
    clip_norm: float | None = None
    """c; None: gradients are as they are."""
    nonconvex: float = 0.0
    """ν."""
    exempt: frozenset[str] = frozenset()
    """Names of parameters that are in none of these terms."""

    @property
    def do_something(self) -> bool:
        """Whether gradients of f_m differ from those of the loss."""
        return bool(self.shared or self.local or self.proximal or self.nonconvex) or self.clip_norm is not None

    @property
    def ridge(self) -> float | None:
        """λ_w where gradients of w differ from those of the loss by λ_w w alone, else None."""
        # on logits steps are added up with fixed factors: neither a pull to a point nor a factor that each step or
        # entry has by itself can be among them
        return None if self.proximal or self.nonconvex or self.clip_norm is not None else self.local

    def added(self, loss: torch.Tensor, shared: Params, local: Params) -> torch.Tensor:
        """Return the loss with these terms."""
        for params, weight in ((shared, self.shared), (local, self.local)):
            here = {name: value for name, value in params.items() if name not in self.exempt}
            if weight:
                for value in here.values():
                    loss = loss + weight / 2 * value.square().sum()
            if self.proximal:
                for name, value in here.items():
                    loss = loss + self.proximal / 2 * (value - self.start[name]).square().sum()
            if self.nonconvex:
                for value in here.values():
                    loss = loss + self.nonconvex * (value.square() / (1 + value.square())).sum()
        return loss

    def of_shared(self, gradient: Params, shared: Params, factor: float | torch.Tensor = 1.0) -> Params:
        """Return a gradient in θ with `factor` times those of the terms; not clipped."""
        return self._of(gradient, shared, self.shared, factor)

    def of_local(self, gradient: Params, local: Params) -> Params:
        """Return a gradient in w with those of the terms; not clipped."""
        return self._of(gradient, local, self.local, 1.0)

    def clipped(self, *gradients: Params) -> tuple[Params, ...]:
        """g ← g · min(1, c/‖g‖), the norm over all of them together."""
        # of clients side by side each has its own norm: inside of a vectorized function these are sums of one client
        squares = [inner(gradient, gradient) for gradient in gradients if gradient]
        if self.clip_norm is None or not squares:
            return gradients
        norm = torch.sqrt(torch.stack(squares).sum())
        # no branch on values, and none is needed: a norm of 0 gives a factor of 1
        factor = torch.clamp(self.clip_norm / norm.clamp(min=torch.finfo(norm.dtype).tiny), max=1.0)
        return tuple(map_params(lambda g: g * factor, gradient) for gradient in gradients)

    def _of(self, gradient: Params, params: Params, weight: float, factor: float | torch.Tensor) -> Params:
        kept = {name: value for name, value in gradient.items() if name in self.exempt}
        if weight:
            gradient = add_scaled(gradient, params, weight * factor)
        if self.proximal:
            moved = subtract(params, {name: self.start[name] for name in params})
            gradient = add_scaled(gradient, moved, self.proximal * factor)
        if self.nonconvex:
            gradient = add_scaled(gradient, map_params(_of_bounded_squares, params), self.nonconvex * factor)
        return {**gradient, **kept}


def _of_bounded_squares(x: torch.Tensor) -> torch.Tensor:
    """The derivative of x²/(1 + x²), entry by entry: 2x/(1 + x²)²."""
    return 2 * x / (1 + x.square()).square()


class PassWithTerms(SharedPass):
    """The gradients of a pass with the terms."""

    def __init__(self, once: SupervisedPass, shared: Params, terms: Terms) -> None:
        self._once, self._shared, self._terms = once, shared, terms
        self.data = once.data

    def shared_gradient(self, local: Params) -> Params:
        """∇_1 f_m(θ, w); for one use."""
        found = self._terms.of_shared(self._once.shared_gradient(local), self._shared)
        return self._terms.clipped(found)[0]

    def gradients(self, local: Params) -> tuple[Params, Params]:
        """(∇_1 f_m(θ, w), ∇_2 f_m(θ, w)), clipped together; for one use."""
        of_shared, of_local = self._once.gradients(local)
        terms = self._terms
        of_shared, of_local = terms.clipped(terms.of_shared(of_shared, self._shared), terms.of_local(of_local, local))
        return of_shared, of_local


class JointPassWithTerms(JointPass):
    """The weighted gradient of several clients with the terms; never with clipped gradients, which no sum knows."""

    def __init__(self, once: SupervisedJointPass, shared: Params, terms: Terms) -> None:
        self._once, self._shared, self._terms = once, shared, terms
        self.data = once.data

    def shared_gradient(self, tuned: Params, weights: torch.Tensor) -> Params:
        """Σ_k v_k ∇_1 f_k(θ, w_k); for one use."""
        return self._terms.of_shared(self._once.shared_gradient(tuned, weights), self._shared, weights.sum())
