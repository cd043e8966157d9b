"""Ranks as threads of one process: real collectives between real concurrent callers, without starting MPI."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from ppfl.core.communicator import Communicator, Message, NeighbourExchange, Operation
from ppfl.rows.client_matrix import ClientMatrix


class _Exchange:
    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=60)
        self.slots: list[Any] = [None] * size
        self.inboxes: list[queue.SimpleQueue[Message]] = [queue.SimpleQueue() for _ in range(size)]


class ThreadCommunicator:
    """One rank of a group of threads; see `ppfl.core.communicator.Communicator`."""

    def __init__(self, exchange: _Exchange, rank: int, size: int) -> None:
        self._exchange = exchange
        self.rank = self.local_rank = rank
        self.size = size

    def _all(self, value: Any) -> list[Any]:
        self._exchange.slots[self.rank] = value
        self._exchange.barrier.wait()
        values = list(self._exchange.slots)
        self._exchange.barrier.wait()
        return values

    def allreduce(self, tensor: torch.Tensor, operation: Operation) -> torch.Tensor:
        stacked = torch.stack(self._all(tensor))
        return stacked.sum(dim=0) if operation == "sum" else stacked.amax(dim=0)

    def start_sum(self, tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        total = self.allreduce(tensor, "sum")
        return lambda: total

    def allgather_rows(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.cat(self._all(rows))

    def rows_to_columns(self, rows: torch.Tensor, bounds: Sequence[int]) -> torch.Tensor:
        return torch.cat(self._all(rows))[:, bounds[self.rank] : bounds[self.rank + 1]].contiguous()

    def columns_to_rows(self, columns: torch.Tensor, bounds: Sequence[int], num_rows: int) -> torch.Tensor:
        of_ranks = self._all(num_rows)
        first = sum(of_ranks[: self.rank])
        return torch.cat(self._all(columns), dim=1)[first : first + num_rows].contiguous()

    def broadcast(self, tensor: torch.Tensor, source: int) -> torch.Tensor:
        return self._all(tensor)[source].clone()

    def neighbourhood(self, ranks: Sequence[int]) -> NeighbourExchange:
        def exchange(tensor: torch.Tensor, counts: Sequence[int], expected: Sequence[int]) -> torch.Tensor:
            pieces = torch.split(tensor, list(counts)) if counts else []
            everyone = self._all(dict(zip(ranks, pieces, strict=True)))
            came = [everyone[rank][self.rank] for rank in ranks]
            assert [len(piece) for piece in came] == list(expected)
            return torch.cat(came) if came else tensor.clone()

        return exchange

    def barrier(self) -> None:
        self._all(None)

    def send(self, destination: int, header: Sequence[int], body: torch.Tensor) -> None:
        assert destination != self.rank
        self._exchange.inboxes[destination].put(Message(self.rank, tuple(header), body.clone()))

    def receive(self, dtype: torch.dtype, *, wait: bool) -> Message | None:
        while True:
            try:
                message = self._exchange.inboxes[self.rank].get(timeout=0.05 if wait else 0)
            except queue.Empty:
                if not wait:
                    return None
                if self._exchange.barrier.broken:
                    raise threading.BrokenBarrierError from None
            else:
                assert message.body.dtype == dtype
                return message

    def finish_sending(self) -> None:
        pass


def on_ranks(size: int, function: Callable[[ThreadCommunicator], Any]) -> list[Any]:
    """Run `function` on `size` ranks at once; return what each returned, or raise what one of them raised."""
    exchange = _Exchange(size)

    def guarded(rank: int) -> Any:
        try:
            return function(ThreadCommunicator(exchange, rank, size))
        except BaseException:
            exchange.barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(guarded, rank) for rank in range(size)]
    errors = [future.exception() for future in futures if future.exception() is not None]
    real = [error for error in errors if not isinstance(error, threading.BrokenBarrierError)]
    if errors:
        raise (real or errors)[0]
    return [future.result() for future in futures]


def client_matrix_of(communicator: Communicator, rows: torch.Tensor) -> ClientMatrix:
    """Build a client matrix from the (C, D) rows of each rank, C ≥ 0."""
    return ClientMatrix.from_stream(communicator, [rows], len(rows), rows.new_empty(rows.shape[1]), 1 << 30)
