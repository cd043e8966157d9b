"""The operator of the personalized problem, also where a method shares w: all methods are then scored alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ppfl.rows.exact_sum import ExactSum

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ppfl.core.communicator import Communicator

RANK_CUTOFF = 1e-12
"""Eigenvalues below this fraction of the largest one count as 0 in pseudo-inverses."""


class PersonalizedOperator:
    """F(θ) = (1/M) Σ_m ∇_θ f_m(θ, w_m*(θ)) = S̄θ − r̄, in float64; D coordinates of θ come first in every system.

    systems: (Q, c) of ½ xᵀQx − cᵀx, x = (θ, w), of the clients of this rank. Building is collective.
    """

    def __init__(
        self, systems: Iterable[tuple[torch.Tensor, torch.Tensor]], length: int, communicator: Communicator
    ) -> None:
        hessian, linear, number = ExactSum(length**2), ExactSum(length), 0
        for Q, c in systems:
            # cloned: a slice has the strides of the whole, for which kernels round differently
            inverse = torch.linalg.pinv(Q[length:, length:].clone(), rtol=RANK_CUTOFF, hermitian=True)
            projected = Q[:length, length:].clone() @ inverse
            hessian.add((Q[:length, :length] - projected @ Q[length:, :length].clone()).reshape(-1))
            linear.add(c[:length] - projected @ c[length:].clone())
            number += 1
        total = int(communicator.allreduce(torch.tensor([number]), "sum"))
        self._hessian = hessian.reduce(communicator).reshape(length, length) / total
        self._linear = linear.reduce(communicator) / total

    def norm(self, theta: torch.Tensor) -> torch.Tensor:
        """‖F(θ)‖, a scalar."""
        norm: torch.Tensor = torch.linalg.vector_norm(self._hessian @ theta - self._linear)
        return norm
