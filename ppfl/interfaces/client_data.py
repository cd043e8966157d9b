"""Who the clients are, and what each of them computes on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import numpy as np
import torch

from ppfl.core.counter_hash import with_name, with_number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ppfl.core.types import Data


Part: TypeAlias = Literal["train", "validation", "test"]
"""Of the samples of a client."""


class Joined(NamedTuple):
    """Samples of K clients, those of one after those of another."""

    data: Data
    sizes: list[int]
    """S of every client."""

    def stacked(self) -> tuple[Data, torch.Tensor | None]:
        """Return tensors (K, S, …), padded to the longest, and the places of the samples in them, seen as (K S, …).

        Where clients have different S the data have a `weight`, 0 for rows that are not there: in the number type of
        the data; bool of tokens, which have none, for whoever sums up to take it in that of what it weighs. Without
        such rows the places are None: all of them, in order.
        """
        longest, sizes = max(self.sizes), np.array(self.sizes)
        if longest == sizes.min():
            return {name: value.view(-1, longest, *value.shape[1:]) for name, value in self.data.items()}, None
        column = np.arange(longest)
        is_there = column < sizes[:, None]
        # in the place of others a client's own first row: it is as finite as its samples, and 0 · NaN is NaN
        ends = np.cumsum(sizes)
        rows = np.where(is_there, column, 0) + np.minimum(ends - sizes, ends[-1] - 1)[:, None]
        device = next(iter(self.data.values())).device
        order = torch.from_numpy(rows.reshape(-1)).to(device)
        data = {
            name: value.index_select(0, order).view(-1, longest, *value.shape[1:]) for name, value in self.data.items()
        }
        of_numbers = (value.dtype for value in data.values() if value.is_floating_point())
        data["weight"] = torch.from_numpy(is_there).to(device, next(of_numbers, torch.bool))
        return data, torch.from_numpy(np.flatnonzero(is_there)).to(device)


class ClientData(ABC):
    """The clients of all ranks by name and size, and the data of those of this rank.

    >>> import torch
    >>> from ppfl.interfaces.client_data import ClientData, join
    >>> class Points(ClientData):
    ...     client_names, num_train_samples, clients = ("a", "b"), (4, 4), range(2)
    ...
    ...     def data(self, client, round):
    ...         first = 2 * (round % 2)
    ...         return {"x": torch.arange(4.0)[first : first + 2] + 10 * client}
    ...
    ...     def training_epoch(self, client, epoch):
    ...         return [self.data(client, 0), self.data(client, 1)]
    >>> points = Points()
    >>> points.num_clients, points.data(1, round=3)
    (2, {'x': tensor([12., 13.])})
    >>> join(points.training_epoch(0, epoch=0))
    {'x': tensor([0., 1., 2., 3.])}
    """

    client_names: tuple[str, ...]
    """One name a client, all clients of all ranks, in the order of client numbers."""
    num_train_samples: tuple[int, ...]
    """Training samples of every client of all ranks; clients with 0 are never sampled."""
    clients: range
    """Clients whose data this rank holds."""
    clients_per_chunk: int = 1
    """K that the clients were dealt to ranks with."""
    fixed_data: bool = False
    """True when `data` is the same in every round and the engine may keep it."""

    @property
    def num_clients(self) -> int:
        """M, all clients of all ranks."""
        return len(self.client_names)

    @abstractmethod
    def data(self, client: int, round: int) -> Data:
        """Return what client m computes on in this round: a drawn batch, or everything it has."""

    @abstractmethod
    def training_epoch(self, client: int, epoch: int) -> list[Data]:
        """All training samples of a client, cut into batches of the size that a round uses, in a drawn order."""

    def client_facts(self) -> dict[str, np.ndarray]:
        """Return facts about every client of all ranks, (M,) or (M, labels), e.g. a histogram of labels."""
        return {}


class SampledData(ClientData):
    """Samples in parts, any rows of which may be asked for: what is done to them once need not be done to batches."""

    changes_training: bool = False
    """True when `data` and `training_epoch` return samples otherwise than `samples` does, each time anew."""

    @abstractmethod
    def part_sizes(self, part: Part) -> tuple[int, ...]:
        """Return how many samples every client of all ranks has in a part."""

    @abstractmethod
    def samples(self, client: int, part: Part, rows: torch.Tensor) -> Data:
        """Return some samples of a client of this rank by their rows (S,) int64; every tensor has a row a sample."""

    @abstractmethod
    def epoch_rows(self, client: int, epoch: int) -> list[torch.Tensor]:
        """Return the rows of the batches of an epoch."""

    def joined(self, clients: Sequence[int], round: int) -> Joined:
        """Return `data` of several clients of this rank one after another.

        The same values as one by one, bit for bit; whoever can gather the rows of all of them at once does.
        """
        of_each = [self.data(client, round) for client in clients]
        return Joined(join(of_each), [num_samples(data) for data in of_each])

    def training_epoch(self, client: int, epoch: int) -> list[Data]:
        """Return the batches that `epoch_rows` says."""
        return [self.samples(client, "train", rows) for rows in self.epoch_rows(client, epoch)]


class LabelledData(SampledData):
    """Samples with labels `y`: classes (S,) int64, tokens (S, T) int64, or numbers."""

    num_classes: int
    """Length of the last axis of the logits; labels that are integers are below it, on all ranks."""
    sample_shape: tuple[int, ...] | None
    """Of x of one sample; None: samples are tokens."""


class Statistics(ClientData):
    """Sufficient statistics of every client in the place of samples: nothing to draw from, nothing to cut.

    of_client: of every client of this rank.
    """

    fixed_data = True

    def __init__(
        self,
        client_names: tuple[str, ...],
        num_train_samples: tuple[int, ...],
        clients: range,
        of_client: Mapping[int, Data],
        clients_per_chunk: int = 1,
    ) -> None:
        self.client_names = client_names
        self.num_train_samples = num_train_samples
        self.clients = clients
        self.clients_per_chunk = clients_per_chunk
        self._of_client = of_client

    def data(self, client: int, round: int) -> Data:
        """Return the statistics."""
        return self._of_client[client]

    def training_epoch(self, client: int, epoch: int) -> list[Data]:
        """Return the statistics, whole."""
        return [self._of_client[client]]


def num_samples(data: Data) -> int:
    """Return S; 1 where there are no samples."""
    return len(data["y"]) if "y" in data else 1


def at_step(data: Data, number: int, loop: str = "") -> Data:
    """Return samples with the keys that they have in a step, so that dropout has another mask in each; those given in
    the first one, number 0, and samples without keys as they are. loop: one of two loops within each other has a name.
    """
    if number == 0 or "key" not in data:
        return data
    # without the name, step 1 of the outer loop would have the masks of step 1 of the inner one
    return {**data, "key": with_number(with_name(data["key"], loop) if loop else data["key"], number)}


def join(batches: Sequence[Data]) -> Data:
    """Return the samples of one batch or more as one batch."""
    if len(batches) == 1:
        return batches[0]
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
