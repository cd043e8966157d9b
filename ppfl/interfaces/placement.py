"""Where and in what precision a problem lives, and how its clients are dealt to ranks, as evenly as can be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from ppfl.interfaces.cohort_size import cohort_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from ppfl.core.communicator import Communicator
    from ppfl.interfaces.byzantine import Byzantine
    from ppfl.interfaces.held_out import HeldOut

MAX_MEMBERS = 4096
"""Clients that are ever computed together: kernels of so many are bound by arithmetic, and exact sums make no room
between them."""
MAX_CHUNK = 1 << 16
"""Clients of a chunk, whose states are kept together."""


@dataclass(frozen=True)
class ChunkMemory:
    """A budget for the clients of a chunk.

    It is of the kind of device and not of what is free on it at the moment, so that K, on which bits depend, is the
    same for whoever shares the device.
    """

    num_bytes: int
    """On the device, for all that is computed for the members of a chunk in a round."""
    cohort: Literal["all"] | int | float = "all"
    """Who takes part in a round, as configurations say it: fewer members a chunk let chunks be larger."""

    def chunk_size(self, num_clients: int, num_ranks: int, bytes_a_client: int) -> int:
        """Return K for M clients: as many as the budget holds, and where ranks would be left without a chunk, less."""
        members = min(max(self.num_bytes // max(bytes_a_client, 1), 1), MAX_MEMBERS)
        size = min(members * num_clients // cohort_size(self.cohort, num_clients), num_clients, MAX_CHUNK)
        # ranks decide only where they have to: results on fewer ranks than chunks have the same bits
        return size if -(-num_clients // size) >= num_ranks else max(num_clients // num_ranks, 1)


class Dealt(NamedTuple):
    """Clients of a rank, contiguous and in whole chunks of K."""

    clients: range
    clients_per_chunk: int


@dataclass(frozen=True)
class Placement:
    """Where and in what precision a problem lives, and which clients' data this rank holds."""

    communicator: Communicator
    data_seed: int
    """Seed of the data: what is generated, partitioned or set aside for validation."""
    seed: int
    """Seed of everything drawn during a run: initial values, batches, fresh local parameters."""
    dtype: torch.dtype
    device: torch.device
    byzantine: Byzantine | None = None
    """Attackers, some of whom may be clients of the problem."""
    body_dtype: torch.dtype | None = None
    """What all stages of a model but the last one compute in; None: in `dtype`."""
    samples_a_round: int | None = None
    """Most samples of a client that a round uses; None: all that it has."""
    kernels: str | None = None
    """Column of the table of `ppfl.networks.kernels`, which chooses forms of stages; None: this processor's."""
    chunk_memory: ChunkMemory | None = None
    """What clients computed together may take; None: clients are computed one by one where nobody says otherwise."""

    held_out: HeldOut | None = None
    """Clients that do not train; None: all do."""
    bytes_of_client: Callable[[tuple[int, ...], int, int | None], int] | None = None
    """(shape of a sample, S of a round, size of a vocabulary or None) -> what a client takes of that memory; a problem
    fills it in."""

    def chunk_size(
        self,
        wanted: int | None,
        num_samples: Sequence[int] | np.ndarray,
        input_shape: tuple[int, ...],
        vocabulary_size: int | None = None,
    ) -> int:
        """Return K, how many neighbours are computed together: as wanted, or as many as the memory for them holds.

        num_samples: training samples of all M clients. vocabulary_size: where samples are tokens.
        """
        if wanted is not None:
            return wanted
        if self.chunk_memory is None or self.bytes_of_client is None:
            return 1
        used = int(np.minimum(np.max(num_samples), self.samples_a_round or np.iinfo(np.int64).max))
        bytes_a_client = self.bytes_of_client(input_shape, used, vocabulary_size)
        return self.chunk_memory.chunk_size(len(num_samples), self.communicator.size, bytes_a_client)

    def deal(
        self,
        client_names: Sequence[str],
        num_samples: Sequence[int] | np.ndarray,
        wanted: int | None,
        input_shape: tuple[int, ...],
        vocabulary_size: int | None = None,
    ) -> Dealt:
        """Return the clients of this rank and K; arguments are those of `chunk_size`, for all M clients.

        Where some are held out, the others are dealt as if there were no more, in whole chunks of those that train.
        """
        if self.held_out is None:
            chunk = self.chunk_size(wanted, num_samples, input_shape, vocabulary_size)
            return Dealt(self.clients_of_rank(num_samples, chunk), chunk)
        all_clients, numbers = np.arange(len(num_samples)), np.asarray(num_samples)
        trained = np.setdiff1d(all_clients, self.held_out.members(client_names, numbers))
        chunk = self.chunk_size(wanted, numbers[trained], input_shape, vocabulary_size)
        mine = self.clients_of_rank(numbers[trained], chunk)
        # who is held out goes with those that train before it, the very first ones with rank 0
        bounds = [0, *trained[1:].tolist(), len(numbers)]
        first, last = (bounds[min(bound, len(trained))] for bound in (mine.start, mine.stop))
        return Dealt(range(first, last), chunk)

    def byzantine_clients(self, client_names: Sequence[str], num_train_samples: Sequence[int]) -> frozenset[int]:
        """Return the clients that are Byzantine: scores and theory leave them out, the engine lets them attack."""
        if self.byzantine is None:
            return frozenset()
        return self.byzantine.members(client_names, num_train_samples, self.seed)

    def clients_of_rank(self, num_samples: Sequence[int] | np.ndarray, clients_per_chunk: int = 1) -> range:
        """Contiguous clients of this rank, in whole chunks; the largest sum of samples that a round uses is least."""
        used = np.minimum(num_samples, self.samples_a_round or np.iinfo(np.int64).max)
        chunks = np.add.reduceat(used, range(0, len(used), clients_per_chunk))
        bounds = balanced_bounds(chunks, self.communicator.size)
        first, last = bounds[self.communicator.rank : self.communicator.rank + 2]
        return range(first * clients_per_chunk, min(last * clients_per_chunk, len(num_samples)))


def balanced_bounds(loads: np.ndarray, num_ranks: int) -> list[int]:
    """Return P + 1 bounds of contiguous pieces of L loads (integers ≥ 0) whose largest sum is the least possible.

    No piece is empty where P ≤ L; else the last ones are.
    """
    if num_ranks >= len(loads):
        return [min(rank, len(loads)) for rank in range(num_ranks + 1)]
    ends = np.concatenate([[0], np.cumsum(loads + 1)])  # a client without samples is some work, too
    low, high = int(loads.max()) + 1, int(ends[-1])
    # whatever capacity suffices, a larger one does, and loads are integers: halving finds the least one exactly
    while low < high:
        middle = (low + high) // 2
        if _fill(ends, num_ranks, middle)[-1] == len(loads):
            high = middle
        else:
            low = middle + 1
    return _spread(ends, num_ranks, low)


def _fill(ends: np.ndarray, num_ranks: int, capacity: int) -> list[int]:
    """Give each rank in turn as much as it can take, leaving at least one piece for each of those that follow."""
    bounds, number = [0], len(ends) - 1
    for rank in range(num_ranks):
        bounds.append(min(_reach(ends, bounds[-1], capacity), number - (num_ranks - 1 - rank)))
    return bounds


def _spread(ends: np.ndarray, num_ranks: int, capacity: int) -> list[int]:
    """Give each rank an equal part as nearly as the capacity of all of them allows."""
    number = len(ends) - 1
    earliest = [number]
    for rank in range(num_ranks - 1, -1, -1):
        first = int(np.searchsorted(ends, ends[earliest[0]] - capacity, side="left"))
        earliest.insert(0, max(first, rank))
    bounds = [0]
    for rank in range(1, num_ranks + 1):
        # in integers, without a quotient whose rounding could decide between two bounds
        even = int(np.abs(ends * num_ranks - ends[-1] * rank).argmin())
        latest = min(_reach(ends, bounds[-1], capacity), number - (num_ranks - rank))
        bounds.append(min(max(even, earliest[rank], bounds[-1] + 1), latest))
    return bounds


def _reach(ends: np.ndarray, first: int, capacity: int) -> int:
    return int(np.searchsorted(ends, ends[first] + capacity, side="right")) - 1
