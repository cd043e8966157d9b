"""Interfaces of data sets and of partitions over clients, and the samples that they hand over."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pydantic import PositiveInt

from ppfl.core.plugins import PlugIn
from ppfl.core.rng import generator

if TYPE_CHECKING:
    from ppfl.core.problem import Placement

MAX_NUM_CLASSES = 65_536
"""A label beyond this is taken for damage rather than for a class."""


@dataclass(frozen=True)
class Samples:
    """S samples: x (S, channels, height, width) or (S, features), uint8 or floating point; y (S,) int64 labels."""

    x: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: np.ndarray) -> Samples:
        """Return a copy of some samples."""
        return Samples(self.x[rows], self.y[rows])


class ClientSamples(NamedTuple):
    """The three parts of one client's data; any of them may be empty."""

    train: Samples
    validation: Samples
    test: Samples


@dataclass(frozen=True)
class FederatedSamples:
    """The part of a federated data set that one rank holds, and what every rank knows of all M clients."""

    client_names: tuple[str, ...]
    num_train_samples: tuple[int, ...]
    num_validation_samples: tuple[int, ...]
    num_test_samples: tuple[int, ...]
    clients: range
    """Clients of this rank."""
    samples: dict[int, ClientSamples]
    """Of the clients of this rank."""
    input_shape: tuple[int, ...]
    """Of one sample: (channels, height, width) or (features,)."""
    divisor: float
    """What the stored x are divided by to lie in [0, 1]; 1 when they are used as they are."""


class Dataset(PlugIn):
    """A data set whose samples belong to clients, with training, validation and test parts for each.

    It names all clients on every rank, and reads the samples of this rank's clients alone:

    >>> from typing import Literal
    >>> import numpy as np
    >>> import torch
    >>> from ppfl.comm.solo import SoloCommunicator
    >>> from ppfl.core.dataset import ClientSamples, Dataset, FederatedSamples, Parts, Samples
    >>> from ppfl.core.problem import Placement
    >>> class Coins(Dataset):
    ...     name: Literal["coins"]
    ...     flips: int
    ...
    ...     def load(self, placement, clients_per_chunk):
    ...         train, validation, test = Parts(test=0.5, validation=0.0).num_samples(self.flips)
    ...         mine = placement.clients_of_rank([train, train], clients_per_chunk)
    ...         y = np.arange(self.flips) % 2
    ...         coin = Samples(y[:, None].astype(np.float32), y)
    ...         cut = {m: Parts(0.5, 0.0).cut(coin, placement.data_seed, m) for m in mine}
    ...         return FederatedSamples(("a", "b"), (train,) * 2, (validation,) * 2, (test,) * 2, mine, cut, (1,), 1.0)
    >>> here = Placement(SoloCommunicator(), 0, 0, torch.float32, torch.device("cpu"))
    >>> samples = Coins(name="coins", flips=10).load(here, clients_per_chunk=1)
    >>> samples.clients, [len(part) for part in samples.samples[1]]
    (range(0, 2), [5, 0, 5])
    """

    @abstractmethod
    def load(self, placement: Placement, clients_per_chunk: int) -> FederatedSamples:
        """Read what this rank holds. Raises UserError, on every rank, for data that cannot be used."""


class Partition(PlugIn):
    """A way to give the samples of a centralized data set to clients.

    It sees labels and a seed:

    >>> from typing import Literal
    >>> import numpy as np
    >>> from ppfl.core.dataset import Partition
    >>> class InTurn(Partition):
    ...     name: Literal["in_turn"]
    ...
    ...     def assign(self, labels, seed):
    ...         self.check(len(labels))
    ...         return [np.arange(client, len(labels), self.clients) for client in range(self.clients)]
    >>> InTurn(name="in_turn", clients=2).assign(np.array([7, 8, 9]), seed=0)
    [array([0, 2]), array([1])]
    >>> InTurn(name="in_turn", clients=4).assign(np.array([7, 8, 9]), seed=0)
    Traceback (most recent call last):
    ValueError: the partition in_turn with 4 clients needs at least 4 samples, there are 3; take fewer clients
    """

    clients: PositiveInt
    """Number of clients, M."""

    @property
    def num_samples_needed(self) -> int:
        """Fewest samples that a data set must have so that no client ends up empty."""
        return self.clients

    @abstractmethod
    def assign(self, labels: np.ndarray, seed: int) -> list[np.ndarray]:
        """Return for each client the ascending indices of its samples: every sample once, no client empty.

        Always terminates. Raises ValueError with fewer than `num_samples_needed` labels.
        """

    def check(self, num_samples: int) -> None:
        """Raise ValueError when a data set of this size would leave a client empty."""
        if num_samples < self.num_samples_needed:
            raise ValueError(
                f"the partition {self.name} with {self.clients} clients needs at least {self.num_samples_needed} "
                f"samples, there are {num_samples}; take fewer clients"
            )


@dataclass(frozen=True)
class Parts:
    """How the samples of one client are cut: ⌊S·test⌋ for testing, ⌊S·validation⌋ for validation, the rest to train."""

    test: float
    validation: float

    def num_samples(self, total: int) -> tuple[int, int, int]:
        """Return the numbers (training, validation, test) for S samples; training keeps at least one of them."""
        # of the decimal numbers that the configuration says: 100 · 0.29 is 29, in floating point just below
        num_test, num_validation = (int(total * Fraction(str(part))) for part in (self.test, self.validation))
        return total - num_test - num_validation, num_validation, num_test

    def cut(self, samples: Samples, seed: int, client: int) -> ClientSamples:
        """Choose the parts by (seed, client); each keeps the order of the samples."""
        _, num_validation, num_test = self.num_samples(len(samples))
        order = generator(seed, "validation", client=client).permutation(len(samples))
        test, validation, train = np.split(order, [num_test, num_test + num_validation])
        return ClientSamples(*(samples.take(np.sort(rows)) for rows in (train, validation, test)))
