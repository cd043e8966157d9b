"""The interface of data sets, the samples that they hand over, and how these are dealt."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np

from ppfl.core.plugins import ChosenFrom, PlugIn, refusal
from ppfl.core.rng import Streams, generator
from ppfl.interfaces.normalization import Normalization
from ppfl.interfaces.packed_samples import PackedParts
from ppfl.interfaces.shift import Shift

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ppfl.interfaces.placement import Dealt, Placement

MAX_NUM_CLASSES = 65_536
"""A label beyond this is taken for damage rather than for a class."""
CUT = "validation"
"""Purpose of the draws that cut a client's samples into parts."""
_MOST_KEPT = 1 << 22
"""Row numbers that are remembered: 32 MiB."""
_NUMBERS_OF_A_CLIENT = 64
"""What else remembering a client takes, in numbers of 8 bytes."""


@dataclass(frozen=True)
class Samples:
    """S samples: x (S, channels, height, width) or (S, features), uint8 or floating point, or tokens (S, T), integers;
    y (S,) or (S, T) int64 labels, or (S,) or (S, numbers) floating point."""

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


class _OfClients(Mapping[int, ClientSamples]):
    """The samples of a rank by client, taken out of packs when they are asked for."""

    def __init__(self, clients: range, parts: PackedParts) -> None:
        self._clients = clients
        self._parts = parts

    def __getitem__(self, client: int) -> ClientSamples:
        if client not in self._clients:
            raise KeyError(client)
        return ClientSamples(*(Samples(*part.take(client, client - self._clients.start)) for part in self._parts))

    def __iter__(self) -> Iterator[int]:
        return iter(self._clients)

    def __len__(self) -> int:
        return len(self._clients)


@dataclass(frozen=True)
class FederatedSamples:
    """The part of a federated data set that one rank holds, and what every rank knows of all M clients."""

    client_names: tuple[str, ...]
    num_train_samples: tuple[int, ...]
    num_validation_samples: tuple[int, ...]
    num_test_samples: tuple[int, ...]
    clients: range
    """Clients of this rank."""
    clients_per_chunk: int
    """K that they were dealt with."""
    parts: PackedParts
    """Of the clients of this rank."""
    input_shape: tuple[int, ...]
    """Of one sample: (channels, height, width) or (features,)."""
    divisor: float
    """What the stored x are divided by to lie in [0, 1]; 1 when they are used as they are."""
    vocabulary_size: int | None = None
    """Samples are ids of tokens below it; None: they are numbers."""
    label_shape: tuple[int, ...] = ()
    """Of the label of one sample."""
    labels_from: str = "problem.dataset"
    """Which file and field labels come from; how messages about them begin."""
    test_from: str = "problem.dataset"
    """Which file samples to test on come from; how messages about them begin."""
    special_ids: Mapping[str, int] = field(default_factory=dict)
    """Of tokens: what padding, out_of_vocabulary, begin and end are called by, as far as there are such."""
    clusters: tuple[int, ...] | None = None
    """Of all M clients, where a shift makes some."""
    num_own_tokens: tuple[int, ...] | None = None
    """Of all M clients, where tokens are some clients' own: their last ids; None: all are common."""

    @classmethod
    def of(
        cls,
        client_names: Sequence[str],
        sizes: np.ndarray,
        dealt: Dealt,
        parts: PackedParts,
        input_shape: tuple[int, ...],
        divisor: float,
        **others: Any,
    ) -> Self:
        """Put it together; sizes: (M, 3), (training, validation, test) samples of every client of all ranks.

        others: fields that are not at their defaults.
        """
        train, validation, test = (tuple(column.tolist()) for column in sizes.T)
        return cls(tuple(client_names), train, validation, test, *dealt, parts, input_shape, divisor, **others)

    @property
    def samples(self) -> Mapping[int, ClientSamples]:
        """The samples of each client of this rank, taken out of the packs when they are asked for."""
        return _OfClients(self.clients, self.parts)


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

    def num_samples_of_all(self, totals: np.ndarray) -> np.ndarray:
        """Return the numbers of every client, (M, 3) int64, given its samples, (M,)."""
        unlike, which = np.unique(totals, return_inverse=True)
        numbers = np.array([self.num_samples(total) for total in unlike.tolist()], dtype=np.int64)
        of_all: np.ndarray = numbers.reshape(-1, 3)[which]
        return of_all

    def cut(self, samples: Samples, seed: int, client: int) -> ClientSamples:
        """Choose the parts by (seed, client); each keeps the order of the samples."""
        rows = self.rows(len(samples), generator(seed, CUT, client=client))
        return ClientSamples(*(samples.take(of_part) for of_part in rows))

    def rows(self, total: int, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return which of S samples are for (training, validation, test), each ascending int64."""
        _, num_validation, num_test = self.num_samples(total)
        test, validation, train = np.split(draw.permutation(total), [num_test, num_test + num_validation])
        return np.sort(train), np.sort(validation), np.sort(test)


class LazyParts:
    """What `Parts.cut` chooses, for clients whose samples lie in a pack: drawn when it is asked for, and remembered.

    num_samples: (M,) of the clients of all ranks.
    """

    def __init__(self, parts: Parts, seed: int, num_samples: np.ndarray) -> None:
        self._parts = parts
        self._num_samples = num_samples
        self._draws = Streams(seed, CUT)
        self._known: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self._num_kept = 0

    def chooser(self, part: Literal[0, 1, 2]) -> Callable[[int], np.ndarray]:
        """Return the function that says which rows of a client are for training (0), validation (1), testing (2)."""
        return lambda client: self._rows(client)[part]

    def _rows(self, client: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = self._known.get(client)
        if rows is None:
            total = int(self._num_samples[client])
            # all at once: who is asked for next is not known, and drawing anew takes microseconds
            if self._num_kept > _MOST_KEPT:
                self._known.clear()
                self._num_kept = 0
            self._num_kept += total + _NUMBERS_OF_A_CLIENT
            rows = self._known[client] = self._parts.rows(total, self._draws.at(0, client))
        return rows


def deal(
    placement: Placement,
    clients_per_chunk: int | None,
    client_names: Sequence[str],
    sizes: Sequence[tuple[int, int, int]],
    of_client: Callable[[int], ClientSamples],
    input_shape: tuple[int, ...],
    divisor: float,
    **others: Any,
) -> FederatedSamples:
    """Deal the clients to ranks, and ask for the samples of this rank's.

    clients_per_chunk: K; None: as many as the placement chooses. sizes: (training, validation, test) samples of every
    client of all ranks. others: fields of the samples that are not at their defaults.
    """
    of_all = np.array(sizes, dtype=np.int64).reshape(-1, 3)
    dealt = placement.deal(client_names, of_all[:, 0], clients_per_chunk, input_shape, others.get("vocabulary_size"))
    mine = dealt.clients
    label_shape = others.get("label_shape", ())
    parts = PackedParts.of(map(of_client, mine), of_all[mine.start : mine.stop], input_shape, label_shape)
    return FederatedSamples.of(client_names, of_all, dealt, parts, input_shape, divisor, **others)


class Dataset(PlugIn):
    """A data set whose samples belong to clients, with training, validation and test parts for each.

    It names all clients on every rank, and reads the samples of this rank's clients alone:

    >>> from typing import Literal
    >>> import numpy as np
    >>> import torch
    >>> from ppfl.comm.solo import SoloCommunicator
    >>> from ppfl.interfaces.dataset import Dataset, Parts, Samples, deal
    >>> from ppfl.interfaces.placement import Placement
    >>> class Coins(Dataset):
    ...     name: Literal["coins"]
    ...     flips: int
    ...
    ...     def load(self, placement, clients_per_chunk):
    ...         parts, y = Parts(test=0.5, validation=0.0), np.arange(self.flips) % 2
    ...         coin = Samples(y[:, None].astype(np.float32), y)
    ...         of_client = lambda client: parts.cut(coin, placement.data_seed, client)
    ...         sizes = [parts.num_samples(self.flips)] * 2
    ...         return deal(placement, clients_per_chunk, ("a", "b"), sizes, of_client, input_shape=(1,), divisor=1.0)
    >>> here = Placement(SoloCommunicator(), 0, 0, torch.float32, torch.device("cpu"))
    >>> samples = Coins(name="coins", flips=10).load(here, clients_per_chunk=1)
    >>> samples.clients, [len(part) for part in samples.samples[1]]
    (range(0, 2), [5, 0, 5])
    """

    silent: ClassVar[frozenset[str]] = frozenset({"normalize", "shift"})
    normalize: Normalization | None = None
    """What is subtracted from samples, and what they are divided by, channel by channel; null: nothing."""
    shift: Annotated[Shift, ChosenFrom("ppfl.shifts")] | None = None
    """What makes the clients of one cluster differ from those of another."""

    @abstractmethod
    def load(self, placement: Placement, clients_per_chunk: int | None) -> FederatedSamples:
        """Read what this rank holds, into arrays that are the caller's: a shift changes them in place.

        Raises UserError, on every rank, for data that cannot be used.
        """


def refuse_parts(parts: Parts) -> None:
    """Raise pydantic's error for fractions that leave nothing to train on."""
    if parts.test + parts.validation >= 1:
        raise refusal("validation", f"less than 1 − test = {1 - parts.test:g}")
