"""One process: every collective is the identity. mpi4py is not imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from ppfl.core.communicator import Message, NeighbourExchange, Operation


class SoloCommunicator:
    """A group of one rank; see `ppfl.core.communicator.Communicator`."""

    rank = 0
    size = 1
    local_rank = 0

    def allreduce(self, tensor: torch.Tensor, operation: Operation) -> torch.Tensor:
        """Return a copy."""
        return tensor.clone()

    def start_sum(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Return what returns a copy."""
        return tensor.clone

    def allgather_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Return a copy."""
        return rows.clone()

    def rows_to_columns(self, rows: torch.Tensor, bounds: Sequence[int]) -> torch.Tensor:
        """Return a copy."""
        return rows.clone()

    def columns_to_rows(self, columns: torch.Tensor, bounds: Sequence[int], num_rows: int) -> torch.Tensor:
        """Return a copy."""
        return columns.clone()

    def broadcast(self, tensor: torch.Tensor, source: int) -> torch.Tensor:
        """Return a copy."""
        return tensor.clone()

    def neighbourhood(self, ranks: Sequence[int]) -> NeighbourExchange:
        """Return what returns a copy of nothing: there is no neighbour."""
        return lambda tensor, _counts, _expected: tensor.clone()

    def barrier(self) -> None:
        """Return at once."""

    def send(self, destination: int, header: Sequence[int], body: torch.Tensor) -> None:
        """Raise ValueError: there is no other rank."""
        raise ValueError(f"there is no rank {destination} to send to")

    def receive(self, dtype: torch.dtype, *, wait: bool) -> Message | None:
        """Return None; raise ValueError rather than wait for ever."""
        if wait:
            raise ValueError("there is no rank to wait for")
        return None

    def finish_sending(self) -> None:
        """Return at once."""
