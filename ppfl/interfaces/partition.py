"""The interface of partitions: which client gets which samples of a pool that belongs to nobody."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydantic import PositiveInt

from ppfl.core.plugins import PlugIn
from ppfl.core.rng import generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ppfl.interfaces.dataset import Samples


@dataclass(frozen=True)
class Pool:
    """Samples that belong to nobody yet."""

    samples: Samples
    where: str
    """Which file they come from; how messages begin."""
    field: np.ndarray | None = None
    """(S,) texts: what the field that a partition names has for each sample."""


@dataclass(frozen=True)
class Hands:
    """What M clients get."""

    names: tuple[str, ...]
    rows: Sequence[np.ndarray]
    """Of each client the ascending indices of its samples, int64."""
    test_rows: Sequence[np.ndarray] | None = None
    """The same of a pool of test samples, where there is one."""


class Partition(PlugIn):
    """A way to give the samples of a centralized data set to clients.

    It sees labels and a seed:

    >>> from typing import Literal
    >>> import numpy as np
    >>> from ppfl.interfaces.partition import Partition
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

    Where a data set has test samples of its own, each client gets of every label the part that it has of those to train
    on (`deal`).
    """

    clients: PositiveInt
    """Number of clients, M."""

    @property
    def num_samples_needed(self) -> int:
        """Fewest samples that a data set must have so that no client ends up empty."""
        return self.clients

    @property
    def field_needed(self) -> str | None:
        """The field of the file that it goes by; None: labels are enough."""
        return None

    @abstractmethod
    def assign(self, labels: np.ndarray, seed: int) -> list[np.ndarray]:
        """Return for each client the ascending indices of its samples: every sample once, no client empty.

        Always terminates. Raises ValueError with fewer than `num_samples_needed` labels, and for labels that do not
        suit it.
        """

    def deal(self, pool: Pool, tests: Pool | None, seed: int) -> Hands:
        """Return what clients, named by their numbers, get of the samples to train on, and of those to test on.

        Raises ValueError as `assign` does.
        """
        rows = self.assign(pool.samples.y, seed)
        digits = len(str(len(rows) - 1))
        names = tuple(f"{client:0{digits}d}" for client in range(len(rows)))
        test_rows = None if tests is None else alike(rows, pool.samples.y, tests.samples.y, seed)
        return Hands(names, rows, test_rows)

    def check(self, num_samples: int) -> None:
        """Raise ValueError when a data set of this size would leave a client empty."""
        if num_samples < self.num_samples_needed:
            raise ValueError(
                f"the partition {self.name} with {self.clients} clients needs at least {self.num_samples_needed} "
                f"samples, there are {num_samples}; take fewer clients"
            )


def alike(rows: Sequence[np.ndarray], labels: np.ndarray, test_labels: np.ndarray, seed: int) -> list[np.ndarray]:
    """Deal test samples so that a client has of each label the fraction that it has of the samples to train on.

    Labels that are no classes, and classes that nobody trains on, go by the sizes of clients. Every sample once.
    """
    draw = generator(seed, "partition of tests")
    sizes = np.array([len(of_client) for of_client in rows], dtype=np.int64)
    owner = np.empty(len(labels), dtype=np.int64)
    for client, of_client in enumerate(rows):
        owner[of_client] = client
    are_classes = labels.dtype.kind != "f" and labels.ndim == 1
    groups = np.unique(test_labels).tolist() if are_classes else [None]
    hands: list[list[np.ndarray]] = [[] for _ in rows]
    for label in groups:
        found = np.arange(len(test_labels)) if label is None else np.flatnonzero(test_labels == label)
        members = draw.permutation(found)
        counts = sizes if label is None else np.bincount(owner[labels == label], minlength=len(rows))
        ends = np.cumsum(counts if counts.any() else sizes)
        # cumulated before rounding, and in integers, so that the pieces have all members
        cuts = (2 * ends[:-1] * len(members) + ends[-1]) // (2 * ends[-1])
        for hand, piece in zip(hands, np.split(members, cuts), strict=True):
            hand.append(piece)
    return [np.sort(np.concatenate(hand)) for hand in hands]


def refuse_numbers(labels: np.ndarray, name: str) -> None:
    """Raise ValueError for labels that are no classes."""
    if labels.dtype.kind == "f" or labels.ndim > 1:
        raise ValueError(f"the partition {name} is for classes; the labels are floating-point numbers")


def fill_up(hands: list[list[int]], min_samples: int) -> None:
    """While a client has fewer samples, the smallest one takes one from the largest one, the last that it was given; of
    equals the first."""
    sizes = np.array([len(hand) for hand in hands])
    while sizes.min() < min_samples:
        taker, giver = int(sizes.argmin()), int(sizes.argmax())
        hands[taker].append(hands[giver].pop())
        sizes[taker] += 1
        sizes[giver] -= 1
