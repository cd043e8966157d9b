"""The state of a run between two rounds, as engines hand it out and take it back: what a checkpoint holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from ppfl.core.types import Params, State


class ClientStates(Protocol):
    """States of clients, one at a time: all of them at once may not fit into memory."""

    @property
    def clients(self) -> Sequence[int]:
        """Clients that have a state, in order; those of all others are the initial ones."""
        ...

    def like(self, client: int) -> State:
        """Return shapes and number types of a state, on the device "meta"."""
        ...

    def state(self, client: int) -> State:
        """Return a state, without groups that have no tensors. Raises UserError when it cannot be read any more."""
        ...


class Columns(Protocol):
    """Columns of rows that clients have sent, a piece of them at a time: no rank may have all at once."""

    @property
    def starts(self) -> Sequence[int]:
        """First columns of the pieces, ascending."""
        ...

    def like(self, start: int) -> torch.Tensor:
        """Return shape and number type of a piece."""
        ...

    def read(self, start: int) -> torch.Tensor:
        """Return a piece, (n, W). Raises UserError when it cannot be read any more."""
        ...


@dataclass(frozen=True)
class HeldColumns:
    """Columns that are in memory, by their starts."""

    pieces: Mapping[int, torch.Tensor]

    @property
    def starts(self) -> Sequence[int]:
        """See Columns."""
        return sorted(self.pieces)

    def like(self, start: int) -> torch.Tensor:
        """See Columns."""
        return self.pieces[start]

    def read(self, start: int) -> torch.Tensor:
        """See Columns."""
        return self.pieces[start]


NO_COLUMNS = HeldColumns({})


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
    tensors: Params
    """Of rank 0, and what some ranks know alone: what has one name is the same on every rank that has it."""
    states: ClientStates
    """Of this rank's clients."""
    columns: Columns = NO_COLUMNS
    """Of uplinks that wait for a rule: of this rank when handed out, of all ranks when taken back."""
