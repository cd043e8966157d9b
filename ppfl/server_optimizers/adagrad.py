"""AdaGrad at the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ppfl.server_optimizers._adaptive import Adaptive, Decay

if TYPE_CHECKING:
    import torch

    from ppfl.core.plugins import Example


class Adagrad(Adaptive):
    """m ← β₁ m + (1 − β₁) g;  v ← v + g²;  direction = η m / (√v + τ).

    Source: Reddi et al., ICLR 2021, Algorithm 2 (FedAdagrad).
    """

    name: Literal["adagrad"]
    example: ClassVar[Example] = {"lr": 0.3, "beta1": 0.2, "tau": 0.01}
    beta1: Decay = 0.0
    """β₁, share of the last mean m that is kept."""

    def second_moment(self, v: torch.Tensor, square: torch.Tensor) -> torch.Tensor:
        """v ← v + g²."""
        return v + square
