"""The state of a run between two rounds, as engines hand it out and take it back: what a checkpoint holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

OF_CLIENT = "client/"
"""How the name of a tensor of one client begins; its number and another "/" follow."""


@dataclass(frozen=True)
class Snapshot:
    """What one rank has of the state after `round` rounds.

    Engines hand out the states of their own clients, and on rank 0 what all ranks know. They take back the latter on
    every rank, and the states of their own clients, whichever rank had them before.
    """

    round: int
    clients: range
    """Clients of this rank."""
    numbers: dict[str, Any]
    """What is not a tensor, JSON types only; of rank 0."""
    tensors: dict[str, torch.Tensor]
    """`client/<number>/…` of this rank's clients; what has other names is the same on every rank that has it."""


def client_of(name: str) -> int | None:
    """Return the client that a tensor belongs to; None for those that all ranks may read."""
    return int(name.split("/", 2)[1]) if name.startswith(OF_CLIENT) else None
