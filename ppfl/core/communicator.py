"""What the engine needs of a group of ranks. `ppfl.comm` implements it; nothing else knows MPI."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Operation = Literal["sum", "max"]
NeighbourExchange: TypeAlias = "Callable[[torch.Tensor, Sequence[int], Sequence[int]], torch.Tensor]"
"""From bytes for neighbours, and how many are for each and come from each, to those that came."""


@dataclass(frozen=True, slots=True)
class Message:
    """What one rank sent to another: a few integers, and a vector that may be empty."""

    source: int
    header: tuple[int, ...]
    body: torch.Tensor


class Communicator(Protocol):
    """Collective operations between ranks, which every rank calls in the same order, and messages from one to another.

    Tensors are contiguous CPU tensors of float32, float64, int64 or uint8 (`allreduce`: not uint8).
    """

    rank: int
    size: int
    local_rank: int
    """Rank among the ranks of the same host."""

    def allreduce(self, tensor: torch.Tensor, operation: Operation) -> torch.Tensor:
        """Return the element-wise sum or maximum over ranks, the same shape as `tensor`."""
        ...

    def start_sum(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Begin to add up over ranks, and return what waits for the sum; `tensor` must not be changed before."""
        ...

    def allgather_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Concatenate (C_r, …) tensors of all ranks along the first dimension, in the order of ranks."""
        ...

    def rows_to_columns(self, rows: torch.Tensor, bounds: Sequence[int]) -> torch.Tensor:
        """Exchange (C, D) row blocks for (N, D_r) column blocks; rank r receives columns bounds[r]:bounds[r + 1]."""
        ...

    def columns_to_rows(self, columns: torch.Tensor, bounds: Sequence[int], num_rows: int) -> torch.Tensor:
        """Exchange (N, D_r) column blocks for (C, D) row blocks: the inverse of `rows_to_columns`.

        num_rows: C, rows that this rank receives; N over all ranks, in the order of ranks.
        """
        ...

    def broadcast(self, tensor: torch.Tensor, source: int) -> torch.Tensor:
        """Return the tensor of rank `source`; those of other ranks tell shape and number type alone."""
        ...

    def neighbourhood(self, ranks: Sequence[int]) -> NeighbourExchange:
        """Return what exchanges bytes with some other ranks, for whom this one is among theirs, too.

        Each call gives every neighbour its part of a tensor of uint8, in the order of `ranks`, and returns what they
        gave, so many bytes of each; collective, as this is.
        """
        ...

    def barrier(self) -> None:
        """Return when every rank has called it."""
        ...

    def send(self, destination: int, header: Sequence[int], body: torch.Tensor) -> None:
        """Start to send a message to another rank and return at once; `body` (D,) must not be changed any more.

        Messages from one rank to another arrive in the order in which they were sent.
        """
        ...

    def receive(self, dtype: torch.dtype, *, wait: bool) -> Message | None:
        """Return the first message that has arrived from any rank; bodies are of type `dtype`.

        Without `wait`, None when there is none.
        """
        ...

    def finish_sending(self) -> None:
        """Return when all messages that this rank sent have been taken over."""
        ...


class HoldsLocalParameters(Protocol):
    """Whoever keeps the clients' local parameters."""

    def local_name_at(self, address: int) -> str | None:
        """Return the name of the tensor at an address in memory when it must not leave this rank."""
        ...


class LocalParameterError(RuntimeError):
    """A local parameter was about to leave its rank."""


class GuardedCommunicator:
    """A communicator that refuses tensors which share memory with a protected one.

    Meaning: local parameters w_m never leave the rank of client m (paper, Section 1).
    """

    def __init__(self, communicator: Communicator) -> None:
        self._inner = communicator
        self.rank = communicator.rank
        self.size = communicator.size
        self.local_rank = communicator.local_rank
        self.seconds = 0.0
        """Wall-clock seconds that this rank has spent in here, waiting for others included."""
        self._owner: HoldsLocalParameters | None = None

    def protect(self, owner: HoldsLocalParameters) -> None:
        """Refuse from now on whatever shares memory with the local parameters that `owner` holds then."""
        self._owner = owner

    def check(self, tensor: torch.Tensor) -> None:
        """Raise LocalParameterError when `tensor` shares memory with a protected parameter."""
        # the memory, not the tensor: a slice or a transpose of a parameter has another address in the same memory
        name = self._owner.local_name_at(tensor.untyped_storage().data_ptr()) if self._owner else None
        if name is not None:
            raise LocalParameterError(
                f"the local parameter {name!r} was handed to the communicator; local parameters stay on the "
                f"rank of their client. Send a gradient of the shared parameters instead."
            )

    def allreduce(self, tensor: torch.Tensor, operation: Operation) -> torch.Tensor:
        """See Communicator; refuses local parameters."""
        self.check(tensor)
        with self._timed():
            return self._inner.allreduce(tensor, operation)

    def start_sum(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        """See Communicator; refuses local parameters."""
        self.check(tensor)
        with self._timed():
            wait = self._inner.start_sum(tensor)

        def timed_wait() -> torch.Tensor:
            with self._timed():
                return wait()

        return timed_wait

    def allgather_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """See Communicator; refuses local parameters."""
        self.check(rows)
        with self._timed():
            return self._inner.allgather_rows(rows)

    def rows_to_columns(self, rows: torch.Tensor, bounds: Sequence[int]) -> torch.Tensor:
        """See Communicator; refuses local parameters."""
        self.check(rows)
        with self._timed():
            return self._inner.rows_to_columns(rows, bounds)

    def columns_to_rows(self, columns: torch.Tensor, bounds: Sequence[int], num_rows: int) -> torch.Tensor:
        """See Communicator; refuses local parameters."""
        self.check(columns)
        with self._timed():
            return self._inner.columns_to_rows(columns, bounds, num_rows)

    def broadcast(self, tensor: torch.Tensor, source: int) -> torch.Tensor:
        """See Communicator; refuses local parameters."""
        self.check(tensor)
        with self._timed():
            return self._inner.broadcast(tensor, source)

    def neighbourhood(self, ranks: Sequence[int]) -> NeighbourExchange:
        """See Communicator; refuses local parameters."""
        with self._timed():
            exchange = self._inner.neighbourhood(ranks)

        def guarded(tensor: torch.Tensor, counts: Sequence[int], expected: Sequence[int]) -> torch.Tensor:
            self.check(tensor)
            with self._timed():
                return exchange(tensor, counts, expected)

        return guarded

    def barrier(self) -> None:
        """See Communicator."""
        with self._timed():
            self._inner.barrier()

    def send(self, destination: int, header: Sequence[int], body: torch.Tensor) -> None:
        """See Communicator; refuses local parameters."""
        self.check(body)
        with self._timed():
            self._inner.send(destination, header, body)

    def receive(self, dtype: torch.dtype, *, wait: bool) -> Message | None:
        """See Communicator."""
        with self._timed():
            return self._inner.receive(dtype, wait=wait)

    def finish_sending(self) -> None:
        """See Communicator."""
        with self._timed():
            self._inner.finish_sending()

    @contextmanager
    def _timed(self) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - started


def ranks_of_host(communicator: Communicator) -> int:
    """Return how many ranks the host with most of them has: they share its memory. Collective."""
    return int(communicator.allreduce(torch.tensor([communicator.local_rank]), "max")) + 1
