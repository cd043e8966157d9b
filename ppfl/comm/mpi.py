"""Many processes through MPI: the only file that imports mpi4py."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from mpi4py import MPI

from ppfl.core.communicator import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ppfl.core.communicator import NeighbourExchange, Operation

_OPERATIONS = {"sum": MPI.SUM, "max": MPI.MAX}
_HEADER_TAG, _BODY_TAG = 1, 2
_MAX_HEADER = 8
_REDUCIBLE = (torch.float32, torch.float64, torch.int64)  # MPI.SUM on bfloat16 is silently wrong


@dataclass(frozen=True, slots=True)
class _Incoming:
    message: Message
    request: MPI.Request
    """Of the body, which may still be on its way."""


class MpiCommunicator:
    """Ranks of an MPI communicator; see `ppfl.core.communicator.Communicator`. Tensors travel without a copy."""

    def __init__(self, communicator: MPI.Intracomm | None = None) -> None:
        self._comm = MPI.COMM_WORLD if communicator is None else communicator
        self.rank = self._comm.Get_rank()
        self.size = self._comm.Get_size()
        self.local_rank = self._comm.Split_type(MPI.COMM_TYPE_SHARED).Get_rank()
        self._sending: list[tuple[MPI.Request, object]] = []
        self._incoming: list[_Incoming] = []

    def allreduce(self, tensor: torch.Tensor, operation: Operation) -> torch.Tensor:
        """Return the element-wise sum or maximum over ranks."""
        _refuse_type(tensor)
        result = torch.empty_like(tensor)
        # MPI adds in any order: whoever wants bits that do not depend on it gives integers, or floats whose sums are
        # exact
        self._comm.Allreduce(_buffer(tensor), result.numpy(), _OPERATIONS[operation])
        return result

    def start_sum(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Begin to add up over ranks."""
        _refuse_type(tensor)
        result = torch.empty_like(tensor)
        request = self._comm.Iallreduce(_buffer(tensor), result.numpy(), MPI.SUM)

        def wait() -> torch.Tensor:
            request.Wait()
            return result

        return wait

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
        # MPI sends what is contiguous: the columns of each receiver are put side by side
        packed = torch.cat([rows[:, a:b].reshape(-1) for a, b in pairwise(bounds)])
        my_width = int(widths[self.rank])
        result = rows.new_empty(int(num_rows.sum()), my_width)
        self._comm.Alltoallv((_buffer(packed), widths * rows.shape[0]), (result.numpy(), num_rows * my_width))
        return result

    def columns_to_rows(self, columns: torch.Tensor, bounds: Sequence[int], num_rows: int) -> torch.Tensor:
        """Exchange column blocks for row blocks."""
        widths = np.diff(np.asarray(bounds))
        of_ranks = np.array(self._comm.allgather(num_rows))
        received = columns.new_empty(num_rows * int(widths.sum()))
        sent = of_ranks * int(widths[self.rank])
        self._comm.Alltoallv((_buffer(columns), sent), (received.numpy(), widths * num_rows))
        # one after another stand the rows as each rank has them, cut to its columns
        parts = torch.split(received, (widths * num_rows).tolist())
        shapes = zip(parts, widths.tolist(), strict=True)
        return torch.cat([part.reshape(num_rows, width) for part, width in shapes], dim=1)

    def broadcast(self, tensor: torch.Tensor, source: int) -> torch.Tensor:
        """Return the tensor of rank `source`."""
        result = tensor.clone() if self.rank == source else torch.empty_like(tensor)
        self._comm.Bcast(_buffer(result), source)
        return result

    def neighbourhood(self, ranks: Sequence[int]) -> NeighbourExchange:
        """Make a graph of ranks, each with its neighbours in this order."""
        graph = self._comm.Create_dist_graph_adjacent(ranks, ranks, reorder=False)

        def exchange(tensor: torch.Tensor, counts: Sequence[int], expected: Sequence[int]) -> torch.Tensor:
            received = torch.empty(sum(expected), dtype=torch.uint8)
            graph.Neighbor_alltoallv((_buffer(tensor), counts), (received.numpy(), expected))
            return received

        return exchange

    def barrier(self) -> None:
        """Return when every rank has called it."""
        self._comm.Barrier()

    def send(self, destination: int, header: Sequence[int], body: torch.Tensor) -> None:
        """Start to send a header of int64 and, unless it is empty, a body of its own number type."""
        assert len(header) <= _MAX_HEADER
        numbers = np.array([body.numel(), *header], dtype=np.int64)
        # the buffers are kept until they have been sent: a blocking send would wait for a rank that may be computing
        self._sending = [(request, kept) for request, kept in self._sending if not request.Test()]
        self._sending.append((self._comm.Isend(numbers, destination, _HEADER_TAG), numbers))
        if body.numel():
            self._sending.append((self._comm.Isend(_buffer(body), destination, _BODY_TAG), body))

    def receive(self, dtype: torch.dtype, *, wait: bool) -> Message | None:
        """Return the first message that is here as a whole; a large body may be overtaken by another rank's message."""
        while True:
            self._accept(dtype)
            unfinished: set[int] = set()
            for position, incoming in enumerate(self._incoming):
                source = incoming.message.source
                # messages of one rank stay in order: behind one whose body is still under way, none of that rank is
                # handed out
                if source not in unfinished and incoming.request.Test():
                    return self._incoming.pop(position).message
                unfinished.add(source)
            if not wait:
                return None
            os.sched_yield()  # ranks may outnumber the cores

    def _accept(self, dtype: torch.dtype) -> None:
        """Begin to receive everything that is announced."""
        status = MPI.Status()
        while (announced := self._comm.Improbe(MPI.ANY_SOURCE, _HEADER_TAG, status)) is not None:
            source = status.Get_source()
            numbers = np.empty(status.Get_count(MPI.INT64_T), dtype=np.int64)
            # `Improbe` has taken this message out of the queue: no other thread or probe can get it
            announced.Recv(numbers)
            body = torch.empty(int(numbers[0]), dtype=dtype)
            request = self._comm.Irecv(_buffer(body), source, _BODY_TAG) if body.numel() else MPI.REQUEST_NULL
            self._incoming.append(_Incoming(Message(source, tuple(numbers[1:].tolist()), body), request))

    def finish_sending(self) -> None:
        """Wait for all messages that this rank sent."""
        MPI.Request.Waitall([request for request, _ in self._sending])
        self._sending = []


def leave() -> None:
    """Finish with MPI when every rank is here: an exit code other than 0 then ends no rank but its own. Collective."""
    MPI.COMM_WORLD.Barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    MPI.Finalize()


def abort(code: int) -> None:
    """End all ranks with an exit code, wherever they are. Not collective."""
    sys.stderr.flush()
    MPI.COMM_WORLD.Abort(code)


def library() -> str:
    """Return name and version of the MPI library."""
    return " ".join(MPI.Get_library_version().splitlines()[0].split())


def _refuse_type(tensor: torch.Tensor) -> None:
    if tensor.dtype not in _REDUCIBLE:
        raise TypeError(f"allreduce takes {', '.join(map(str, _REDUCIBLE))}, got {tensor.dtype}")


def _buffer(tensor: torch.Tensor) -> np.ndarray:
    if tensor.device.type != "cpu" or not tensor.is_contiguous():
        raise TypeError("MPI takes contiguous CPU tensors")
    return tensor.detach().numpy()
