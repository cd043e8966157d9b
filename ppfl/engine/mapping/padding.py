"""Draws of several clients side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ppfl.interfaces.mini_batches import NeedsEqualClients

if TYPE_CHECKING:
    from ppfl.core.types import Draws


def stack_draws(draws: list[Draws]) -> Draws:
    """Return the draws of K clients with a first dimension K."""
    for key, value in draws[0].items():
        if any(draw[key].shape != value.shape for draw in draws):
            raise NeedsEqualClients(f"{key} has unlike shapes")
    return {key: torch.stack([draw[key] for draw in draws]) for key in draws[0]}
