"""What the engine needs of a group of ranks. `ppfl.comm` implements it; nothing else knows MPI."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

Operation = Literal["sum", "max"]


class Communicator(Protocol):
    """Collective operations between ranks; every rank calls each of them, in the same order.

    Tensors are contiguous CPU tensors of float32, float64, int64 or uint8 (`allreduce`: not uint8).
    """

    rank: int
    size: int
    local_rank: int
    """Rank among the ranks of the same host."""

    def allreduce(self, tensor: torch.Tensor, operation: Operation) -> torch.Tensor:
        """Return the element-wise sum or maximum over ranks, the same shape as `tensor`."""
        ...

    def allgather_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Concatenate (C_r, …) tensors of all ranks along the first dimension, in the order of ranks."""
        ...

    def rows_to_columns(self, rows: torch.Tensor, bounds: Sequence[int]) -> torch.Tensor:
        """Exchange (C, D) row blocks for (N, D_r) column blocks; rank r receives columns bounds[r]:bounds[r + 1]."""
        ...

    def barrier(self) -> None:
        """Return when every rank has called it."""
        ...


class HoldsLocalParameters(Protocol):
    """Whoever keeps the clients' local parameters."""

    def local_parameter_at(self, address: int) -> str | None:
        """Return the name of the local parameter whose memory begins at this address; None when there is none."""
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
        self._owner: HoldsLocalParameters | None = None

    def protect(self, owner: HoldsLocalParameters) -> None:
        """Refuse from now on whatever shares memory with the local parameters that `owner` holds at that moment."""
        self._owner = owner

    def check(self, tensor: torch.Tensor) -> None:
        """Raise LocalParameterError when `tensor` shares memory with a protected parameter."""
        name = self._owner.local_parameter_at(tensor.untyped_storage().data_ptr()) if self._owner else None
        if name is not None:
            raise LocalParameterError(
                f"the local parameter {name!r} was handed to the communicator; local parameters stay on the rank of "
                f"their client. Send a gradient of the shared parameters instead."
            )

    def allreduce(self, tensor: torch.Tensor, operation: Operation) -> torch.Tensor:
        """See Communicator; refuses local parameters."""
        self.check(tensor)
        return self._inner.allreduce(tensor, operation)

    def allgather_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """See Communicator; refuses local parameters."""
        self.check(rows)
        return self._inner.allgather_rows(rows)

    def rows_to_columns(self, rows: torch.Tensor, bounds: Sequence[int]) -> torch.Tensor:
        """See Communicator; refuses local parameters."""
        self.check(rows)
        return self._inner.rows_to_columns(rows, bounds)

    def barrier(self) -> None:
        """See Communicator."""
        self._inner.barrier()
