"""Samples of the clients of a rank in a few large arrays, so that a million clients are not a million objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ppfl.interfaces.dataset import ClientSamples, Samples


class RowsOfFile(Protocol):
    """The x of samples that stay in a file until they are asked for."""

    def read(self, first: int, last: int) -> np.ndarray:
        """Return rows first to last − 1, (last − first, …). Raises UserError where they cannot be read."""
        ...


@dataclass(frozen=True, eq=False)
class Pack:
    """Samples of the C clients of a rank, those of each one side by side; every row is one client's."""

    x: np.ndarray | RowsOfFile
    """(S, channels, height, width) or (S, features), uint8 or floating point; or tokens (S, T), any integers."""
    y: np.ndarray
    """(S,) or (S, T) int64 labels, or floating point."""
    starts: np.ndarray
    """(C,) int64, first row of each client."""
    sizes: np.ndarray
    """(C,) int64, rows of each client."""

    def count_labels(self, num_classes: int) -> np.ndarray:
        """Return how many samples of each label every client has, (C, classes) int64."""
        counts = np.zeros((len(self.sizes), num_classes), dtype=np.int64)
        order = np.argsort(self.starts, kind="stable")
        step = max(1, _COUNTED_AT_ONCE // num_classes)
        row = 0
        for first in range(0, len(order), step):
            clients = order[first : first + step]
            sizes = self.sizes[clients]
            labels = self.y[row : row + int(sizes.sum())]
            cells = np.repeat(np.arange(len(clients)) * num_classes, sizes) + labels
            counts[clients] = np.bincount(cells, minlength=len(clients) * num_classes).reshape(-1, num_classes)
            row += len(labels)
        return counts


_COUNTED_AT_ONCE = 1 << 22
"""Numbers of a histogram, so that counting takes little memory beside it."""


@dataclass(frozen=True, eq=False)
class PackedPart:
    """One of the three parts of the data of a rank's clients: of each client some rows of a pack."""

    pack: Pack
    choose: Callable[[int], np.ndarray] | None = None
    """Which of the rows of client m are in this part, ascending int64; None: all of them."""

    def rows(self, client: int, index: int) -> slice | np.ndarray:
        """Return the rows of the pack that are a client's, which is number `index` of this rank."""
        start = int(self.pack.starts[index])
        if self.choose is None:
            return slice(start, start + int(self.pack.sizes[index]))
        rows: np.ndarray = start + self.choose(client)
        return rows

    def take(self, client: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return x and y of a client, which is number `index` of this rank."""
        rows, x = self.rows(client, index), self.pack.x
        return x[rows] if isinstance(x, np.ndarray) else read_rows(x, rows), self.pack.y[rows]


def read_rows(x: RowsOfFile, rows: slice | np.ndarray) -> np.ndarray:
    """Return some rows of one client, which are close to each other, from a file."""
    if isinstance(rows, slice):
        return x.read(rows.start, rows.stop)
    if not len(rows):
        return x.read(0, 0)
    first, last = int(rows.min()), int(rows.max()) + 1
    chosen: np.ndarray = x.read(first, last)[rows - first]
    return chosen


class PackedParts(NamedTuple):
    """The three parts of the data of a rank's clients."""

    train: PackedPart
    validation: PackedPart
    test: PackedPart

    @classmethod
    def of(
        cls,
        samples: Iterable[ClientSamples],
        sizes: np.ndarray,
        sample_shape: tuple[int, ...],
        label_shape: tuple[int, ...] = (),
    ) -> PackedParts:
        """Pack what clients have, asked for one at a time, so that nothing is there twice.

        sizes: (C, 3) int64, samples of every client in each part; shapes: of one, for when there are none.
        Raises ValueError for a client that has another number of samples, or of another type than those before.
        """
        packing = [_Packing(of_part, sample_shape, label_shape) for of_part in sizes.T]
        for index, client in enumerate(samples):
            for part, of_client in zip(packing, client, strict=True):
                part.put(index, of_client)
        return cls(*(PackedPart(part.pack) for part in packing))

    @property
    def packs(self) -> tuple[Pack, ...]:
        """Return what the parts are of, each pack once."""
        return tuple({id(part.pack): part.pack for part in self}.values())


class _Packing:
    """A pack that is being filled; memory is taken when the first client says what its numbers are."""

    def __init__(self, sizes: np.ndarray, sample_shape: tuple[int, ...], label_shape: tuple[int, ...]) -> None:
        self._sizes = sizes
        self._starts = np.cumsum(sizes) - sizes
        self._x = np.empty((0, *sample_shape), np.uint8)
        self._y = np.empty((int(sizes.sum()), *label_shape), np.int64)

    def put(self, index: int, samples: Samples) -> None:
        start, size = int(self._starts[index]), int(self._sizes[index])
        if index == 0:
            self._x = np.empty((len(self._y), *self._x.shape[1:]), samples.x.dtype)
            self._y = np.empty(self._y.shape, samples.y.dtype)
        if len(samples) != size or samples.x.dtype != self._x.dtype:
            raise ValueError(
                f"a client has {len(samples)} samples of {samples.x.dtype}; {size} of {self._x.dtype} were announced"
            )
        self._x[start : start + size] = samples.x
        self._y[start : start + size] = samples.y

    @property
    def pack(self) -> Pack:
        return Pack(self._x, self._y, self._starts, self._sizes)
