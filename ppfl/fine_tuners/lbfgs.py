"""Limited-memory BFGS on the local parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import torch
from pydantic import PositiveInt

from ppfl.core.params import flatten, ratio, unflatten
from ppfl.interfaces.method import FineTuner, Tuned

if TYPE_CHECKING:
    from collections.abc import Callable

    from ppfl.core.plugins import Example
    from ppfl.core.types import Data, Draws, Params
    from ppfl.interfaces.objective import Objective

NUM_TRIALS = 8
"""Step lengths 1, 1/2, …, 2⁻⁷ that the line search tries."""
_ARMIJO = 1e-4
_SLACK = 10.0  # in units of the rounding error of the loss


class _Point(NamedTuple):
    """w, ∇f(w) and f(w)."""

    w: torch.Tensor
    gradient: torch.Tensor
    value: torch.Tensor


class _Pair(NamedTuple):
    """s = w⁺ − w, y = g⁺ − g, ρ = 1/⟨s, y⟩, or ρ = 0 when the pair is not to be used; and γ = ⟨s, y⟩/⟨y, y⟩."""

    s: torch.Tensor
    y: torch.Tensor
    rho: torch.Tensor
    gamma: torch.Tensor


class LBFGS(FineTuner):
    """w ← w − t H ∇_2 f(θ, w), H the inverse Hessian that the last `history` steps suggest, t by backtracking.

    Source: Nocedal & Wright 2006, Algorithms 7.4 (two-loop recursion) and 7.5, on all the data of the call. For convex
    f, such as linear heads. H starts as a multiple of I, the exact minimizer along the first gradient of the quadratic
    model. t is the first of 1, 1/2, …, 2⁻⁷ that satisfies Armijo's condition f(w + t p) ≤ f(w) + 10⁻⁴ t ⟨∇f(w), p⟩, up
    to the rounding of f, so that steps do not end where differences of f are lost in it; 0 when none does.
    """

    name: Literal["lbfgs"]
    example: ClassVar[Example] = {"steps": 3, "history": 1}
    needs_whole_gradients: ClassVar[str] = "its line search and its differences of gradients need those of f_m itself"
    steps: PositiveInt
    """Steps a call."""
    history: PositiveInt = 10
    """Pairs of differences that are kept."""

    def tune(self, objective: Objective, shared: Params, local: Params, data: Data, draws: Draws) -> Tuned:
        """Return w after `steps` steps.

        Counted are one gradient and a product with the Hessian to begin with; in every step one, and 1/3 for the loss
        of each trial.
        """
        num_gradients = 2.0 + self.steps * (1.0 + NUM_TRIALS / 3.0)
        if not local:
            return Tuned(local, num_gradients)

        def loss(vector: torch.Tensor) -> torch.Tensor:
            return objective.loss(shared, unflatten(vector, local), data)

        point = _Point(flatten(local), *torch.func.grad_and_value(loss)(flatten(local)))
        product = objective.local_hessian_product(shared, local, unflatten(point.gradient, local), data)
        gamma = ratio(point.gradient @ point.gradient, point.gradient @ flatten(product))
        pairs: list[_Pair] = []
        for _ in range(self.steps):
            w = _line_search(loss, point, -_apply_inverse_hessian(point.gradient, pairs, gamma))
            new = _Point(w, *torch.func.grad_and_value(loss)(w))
            pair = _pair(new.w - point.w, new.gradient - point.gradient)
            # the last good one: a step that did not move says nothing about curvature
            gamma = torch.where(pair.rho > 0, pair.gamma, gamma)
            pairs = [*pairs, pair][-self.history :]
            point = new
        return Tuned(unflatten(point.w, local), num_gradients)


def _pair(s: torch.Tensor, y: torch.Tensor) -> _Pair:
    product = s @ y
    usable = product > torch.finfo(product.dtype).eps * torch.sqrt((s @ s) * (y @ y))
    return _Pair(s, y, torch.where(usable, ratio(torch.ones_like(product), product), 0.0), ratio(product, y @ y))


def _apply_inverse_hessian(g: torch.Tensor, pairs: list[_Pair], gamma: torch.Tensor) -> torch.Tensor:
    """H g by the two-loop recursion, H₀ = γI."""
    weights: list[torch.Tensor] = []
    for pair in reversed(pairs):
        weight = pair.rho * (pair.s @ g)
        weights.append(weight)
        g = g - weight * pair.y
    result = gamma * g
    for pair, weight in zip(pairs, reversed(weights), strict=True):
        result = result + (weight - pair.rho * (pair.y @ result)) * pair.s
    return result


def _line_search(loss: Callable[[torch.Tensor], torch.Tensor], start: _Point, direction: torch.Tensor) -> torch.Tensor:
    """Return start + t·direction for the first t that is accepted; every t is tried, so that nothing branches."""
    slope = start.gradient @ direction
    limit = start.value + _SLACK * torch.finfo(start.value.dtype).eps * start.value.abs()
    chosen = torch.zeros_like(slope)
    for trial in range(NUM_TRIALS):
        t = 0.5**trial
        accepted = loss(start.w + t * direction) <= limit + _ARMIJO * t * slope
        chosen = torch.where(accepted & (chosen == 0), t, chosen)
    return start.w + chosen * direction
