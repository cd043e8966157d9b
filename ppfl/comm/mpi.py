"""Many processes through MPI: the only file that imports mpi4py."""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from mpi4py import MPI

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ppfl.core.communicator import Operation

_OPERATIONS = {"sum": MPI.SUM, "max": MPI.MAX}
_REDUCIBLE = (torch.float32, torch.float64, torch.int64)  # MPI.SUM on bfloat16 is silently wrong


class MpiCommunicator:
    """Ranks of an MPI communicator; see `ppfl.core.communicator.Communicator`. Tensors travel without a copy."""

    def __init__(self, communicator: MPI.Intracomm | None = None) -> None:
        self._comm = MPI.COMM_WORLD if communicator is None else communicator
        self.rank = self._comm.Get_rank()
        self.size = self._comm.Get_size()
        self.local_rank = self._comm.Split_type(MPI.COMM_TYPE_SHARED).Get_rank()

    def allreduce(self, tensor: torch.Tensor, operation: Operation) -> torch.Tensor:
        """Return the element-wise sum or maximum over ranks."""
        if tensor.dtype not in _REDUCIBLE:
            raise TypeError(f"allreduce takes {', '.join(map(str, _REDUCIBLE))}, got {tensor.dtype}")
        result = torch.empty_like(tensor)
        self._comm.Allreduce(_buffer(tensor), result.numpy(), _OPERATIONS[operation])
        return result

    def allgather_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Concatenate the ranks' rows in the order of ranks."""
        counts = np.array(self._comm.allgather(rows.shape[0]))
        result = rows.new_empty(int(counts.sum()), *rows.shape[1:])
        per_row = int(np.prod(rows.shape[1:], dtype=np.int64))
        self._comm.Allgatherv(_buffer(rows), (result.numpy(), counts * per_row))
        return result

    def rows_to_columns(self, rows: torch.Tensor, bounds: Sequence[int]) -> torch.Tensor:
        """Exchange row blocks for column blocks."""
        widths = np.diff(np.asarray(bounds))
        num_rows = np.array(self._comm.allgather(rows.shape[0]))
        packed = torch.cat([rows[:, a:b].reshape(-1) for a, b in pairwise(bounds)])
        my_width = int(widths[self.rank])
        result = rows.new_empty(int(num_rows.sum()), my_width)
        self._comm.Alltoallv((_buffer(packed), widths * rows.shape[0]), (result.numpy(), num_rows * my_width))
        return result

    def abort(self, code: int) -> None:
        """End all ranks with an exit code, wherever they are."""
        sys.stderr.flush()
        self._comm.Abort(code)

    def barrier(self) -> None:
        """Return when every rank has called it."""
        self._comm.Barrier()


def _buffer(tensor: torch.Tensor) -> np.ndarray:
    if tensor.device.type != "cpu" or not tensor.is_contiguous():
        raise TypeError("MPI takes contiguous CPU tensors")
    return tensor.detach().numpy()
