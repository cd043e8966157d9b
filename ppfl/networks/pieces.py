"""How many samples go through the shared stages together, and how much of their graphs is kept, by the kind of device.

Results depend on the number of rows of a piece, so it is fixed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

from ppfl.core.gpu_memory import budget_bytes


@dataclass(frozen=True)
class Pieces:
    """Of one kind of device."""

    rows: int
    """Samples that go through the shared stages together."""
    kept_bytes: int
    """Of the graph of one client, or of those computed together, that are kept for the way back; the shared stages run
    again for pieces beyond."""


CPU = Pieces(rows=128, kept_bytes=1 << 30)
"""Convolutions are fastest at about 128 rows (docs/performance.md)."""
GPU_ROWS = 4096
"""Enough for each kernel to fill the card, whose launches are what costs."""
GPU_SHARE, BUDGET_SHARE = 8, 3
"""Part of a card's memory that graphs may take, and the clients of a chunk as much; and part of what a pack allots to
one of the processes that share the card, where that is less."""


def pieces_of(device: torch.device) -> Pieces:
    """Return the pieces of a device."""
    return Pieces(GPU_ROWS, memory_share(device)) if device.type == "cuda" else CPU


@cache
def memory_share(device: torch.device) -> int:
    """Return how many bytes of a card one of its uses may take: of all that it has, whoever else is on it."""
    of_card = int(torch.cuda.get_device_properties(device).total_memory) // GPU_SHARE
    budget = budget_bytes()
    return of_card if budget is None else min(of_card, budget // BUDGET_SHARE)
