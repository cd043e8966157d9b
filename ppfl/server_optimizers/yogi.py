"""Yogi at the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from ppfl.server_optimizers._adaptive import Adaptive, Decay

if TYPE_CHECKING:
    from ppfl.core.plugins import Example


class Yogi(Adaptive):
    """m ← β₁ m + (1 − β₁) g;  v ← v − (1 − β₂) g² sign(v − g²);  direction = η m / (√v + τ).

    Source: Reddi et al., ICLR 2021, Algorithm 2 (FedYogi).
    """

    name: Literal["yogi"]
    example: ClassVar[Example] = {"lr": 0.1, "beta1": 0.8, "beta2": 0.95, "tau": 0.01}
    beta2: Decay = 0.99
    """β₂, share of the last v that is kept."""

    def second_moment(self, v: torch.Tensor, square: torch.Tensor) -> torch.Tensor:
        """v ← v − (1 − β₂) g² sign(v − g²)."""
        return v - (1.0 - self.beta2) * square * torch.sign(v - square)
