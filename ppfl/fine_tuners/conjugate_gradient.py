"""Conjugate gradients on the local parameters."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import PositiveInt

from ppfl.core.conjugate_gradients import can_solve, solve
from ppfl.core.params import add_scaled, as_vector, inner, named_pieces, ratio, zeros_like
from ppfl.interfaces.method import FineTuner, Tuned

if TYPE_CHECKING:
    from ppfl.core.plugins import Example
    from ppfl.core.types import Data, Draws, Params
    from ppfl.interfaces.objective import Objective


class ConjugateGradient(FineTuner):
    """w ← w + p, p from `steps` steps of conjugate gradients on ∇²_22 f(θ, w) p = −∇_2 f(θ, w).

    Source: Hestenes & Stiefel 1952; as a fine-tuner: Mishchenko et al., TMLR 2025, Figure 1a. On quadratics d_w steps
    give w*(θ). On other losses it minimizes the quadratic model of f at the starting point: one inner solve of
    Newton-CG (Nocedal & Wright 2006, Algorithm 7.1), without a line search.

    Once the residual is no larger than its own rounding w stays, or else it would drift along the null space of
    singular Hessians; and directions of negative curvature are not followed.
    """

    name: Literal["conjugate_gradient"]
    example: ClassVar[Example] = {"steps": 3}
    needs_whole_gradients: ClassVar[str] = (
        "its products are with the Hessian of f_m, of which a clipped gradient is not the gradient"
    )
    steps: PositiveInt
    """Products with the Hessian a call."""

    def tune(self, objective: Objective, shared: Params, local: Params, data: Data, draws: Draws) -> Tuned:
        """Return w after `steps` steps.

        Counted are one gradient for the first residual and one a product with the Hessian, which costs about two on
        networks.
        """
        if not local:
            return Tuned(local, 1.0 + self.steps)
        system = objective.local_system(shared, data)
        if system is not None and can_solve(system[0]):
            lengths = {name: value.numel() for name, value in local.items()}
            return Tuned(named_pieces(solve(*system, as_vector(local), self.steps), lengths), 1.0 + self.steps)
        gradient = objective.local_gradient(shared, local, data)
        residual = add_scaled(zeros_like(local), gradient, -1.0)
        move, direction = zeros_like(local), residual
        square = inner(residual, residual)
        steepest = torch.zeros_like(square)
        start_square, local_square = square, inner(local, local)
        rounding = torch.finfo(square.dtype).eps * math.sqrt(sum(value.numel() for value in local.values()))
        for _ in range(self.steps):
            product = objective.local_hessian_product(shared, local, direction, data)
            curvature = inner(direction, product)
            steepest = torch.maximum(steepest, ratio(curvature, inner(direction, direction)))
            solved = square <= rounding**2 * (start_square + steepest**2 * local_square)
            # a step of 0 instead of a `break`: vectorized clients take the same number of steps, each ends by itself
            step = torch.where(solved | (curvature <= 0), 0.0, ratio(square, curvature))
            move = add_scaled(move, direction, step)
            residual = add_scaled(residual, product, -step)
            old_square, square = square, inner(residual, residual)
            direction = add_scaled(residual, direction, ratio(square, old_square))
        return Tuned(add_scaled(local, move, 1.0), 1.0 + self.steps)
