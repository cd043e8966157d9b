"""Files with the samples of all clients in a few arrays, those of each client side by side.

Where a group a client takes a millisecond a client to open, a million clients of this layout take seconds: all checks
are of whole arrays, and samples are read in blocks of rows, whoever's they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from ppfl.core.errors import UserError
from ppfl.datasets._row_spans import RowSpans
from ppfl.datasets._sample_file import LABEL, ClientsOfFile, SampleFile, check_labels, check_samples
from ppfl.interfaces.client_names import refuse_names
from ppfl.interfaces.dataset import MAX_NUM_CLASSES, Samples
from ppfl.interfaces.packed_samples import Pack
from ppfl.interfaces.usable_numbers import impossible_rows, unusable_rows

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    import torch

    from ppfl.interfaces.data_hdf5 import DataArray, DataGroup

SAMPLE_FIELDS = ("samples", "pixels")
OFFSETS, CLIENT = "offsets", "client"
FLAT_LAYOUT = "the flat layout is samples (or pixels), label, offsets and client"
BLOCK_BYTES = 1 << 23
"""Of samples that are read at a time."""


@dataclass(frozen=True)
class FlatFile(SampleFile, ClientsOfFile):
    """A file whose samples are read in blocks of rows."""

    path: Path
    where: str
    field: str
    label: str
    x: DataArray
    y: DataArray
    sample_shape: tuple[int, ...]
    sample_dtype: np.dtype
    names: list[str]
    """M clients, sorted."""
    starts: np.ndarray
    """(M,) int64, first row of each."""
    num_rows: np.ndarray
    """(M,) int64, samples of each."""

    @classmethod
    def of(cls, root: DataGroup, path: Path, where: str, label: str = LABEL) -> FlatFile:
        """Check the layout, offsets and names, without reading samples."""
        held = root.names()
        field = next((name for name in SAMPLE_FIELDS if name in held), SAMPLE_FIELDS[0])
        x, y, offsets, client = (_array(root, name, where) for name in (field, label, OFFSETS, CLIENT))
        check_samples(x, y, (field, label), where)
        bounds = _bounds(offsets, x.shape[0], field)
        if client.shape != (len(bounds) - 1,):
            raise UserError(
                f"{client.where}: has shape {client.shape}, and {OFFSETS} {len(bounds)} entries; there must be a name "
                f"a client, and an entry more"
            )
        names, starts, num_rows = client.read_texts(), bounds[:-1], np.diff(bounds)
        _check_names(names, client.where)
        # by name, not in the order of the file, so that a copy written in another order is the same problem
        if names != sorted(names):
            order = sorted(range(len(names)), key=names.__getitem__)
            names, starts, num_rows = [names[row] for row in order], starts[order], num_rows[order]
        return cls(path, where, field, label, x, y, x.shape[1:], x.dtype, names, starts, num_rows)

    def count(self, name: str) -> int:
        """Return how many samples a client has."""
        index = self._index.get(name)
        return 0 if index is None else int(self.num_rows[index])

    def look_at(self, names: Collection[str], most: int | None) -> FlatFile:
        """Return the same with these clients alone, and at most so many samples of each: its layout is known."""
        found = self
        if names != self.names:
            kept = [name for name in names if name in self._index]
            rows = np.array([self._index[name] for name in kept], dtype=np.int64)
            found = replace(self, names=kept, starts=self.starts[rows], num_rows=self.num_rows[rows])
        return found if most is None else replace(found, num_rows=np.minimum(found.num_rows, most))

    def sizes(self) -> Mapping[str, int]:
        """Return the number of samples of every client."""
        return dict(zip(self.names, self.num_rows.tolist(), strict=True))

    def read(self, name: str) -> Samples:
        """Read all samples of one client; none when this file does not name it."""
        if (index := self._index.get(name)) is None:
            return self.nothing()
        first, last = int(self.starts[index]), int(self.starts[index] + self.num_rows[index])
        x, y = self.x.read_rows(first, last), self.y.read_rows(first, last)
        check_labels(y, self.label, f"{self.where}, client {name!r}")
        return Samples(np.ascontiguousarray(self.as_input(x)), y.astype(np.int64))

    def rows_of(self, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return first row and number of rows of M clients, (M,) int64 each; no rows of whom it does not name."""
        if names == self.names:
            return self.starts, self.num_rows
        index = np.array([self._index.get(name, -1) for name in names], dtype=np.int64)
        if not self.names:
            return np.zeros_like(index), np.zeros_like(index)
        return np.where(index < 0, 0, self.starts[index]), np.where(index < 0, 0, self.num_rows[index])

    def pack(
        self, names: Sequence[str], starts: np.ndarray, sizes: np.ndarray, precision: torch.dtype, *, hold: bool
    ) -> Pack:
        """Read and check the samples of some clients; keep all of them, or else their labels alone.

        starts, sizes: (C,) rows of each. Raises UserError for labels that are none and numbers that no run can use.
        """
        spans, done = RowSpans(starts, sizes), 0
        x = np.empty((spans.num_rows if hold else 0, *self.input_shape), self.sample_dtype)
        y, largest = np.empty(spans.num_rows, np.int64), self.largest(precision)
        for first, last, chosen in spans.blocks(max(1, BLOCK_BYTES // self.bytes_a_sample)):
            block, labels = self.x.read_rows(first, last), self.y.read_rows(first, last)
            if chosen is not None:
                block, labels = block[chosen], labels[chosen]
            begun, done = done, done + len(labels)
            if (bad := self._first_bad(block, labels, largest)) is not None:
                row, what = bad
                raise UserError(f"{self.where}, client {names[spans.client_at(begun + row)]!r}: {what}")
            y[begun:done] = labels
            if hold:
                x[begun:done] = self.as_input(block)
        return Pack(x if hold else _RowsOfClients(self, spans), y, spans.starts_in_pack, sizes)

    @property
    def bytes_a_sample(self) -> int:
        """Size of the numbers of one."""
        return self.sample_dtype.itemsize * math.prod(self.sample_shape)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.names)}

    def _first_bad(self, x: np.ndarray, y: np.ndarray, largest: float) -> tuple[int, str] | None:
        """Return the first row that no run can use, and what is wrong with it."""
        if len(rows := impossible_rows(y, MAX_NUM_CLASSES)):
            return int(rows[0]), f"a {self.label} is {y[rows[0]]}; allowed are 0 to {MAX_NUM_CLASSES - 1}"
        if len(rows := unusable_rows(x, largest)):
            what = f"NaN, inf or a number beyond {largest:.3g}"
            return int(rows[0]), f"a sample has {what}; all must be finite in the precision of the run"
        return None


class _RowsOfClients:
    """The samples of some clients, one after another, that stay in their file."""

    def __init__(self, file: FlatFile, spans: RowSpans) -> None:
        self._file = file
        self._spans = spans
        self._seen = self._look()

    def read(self, first: int, last: int) -> np.ndarray:
        """Return rows of one client. Raises UserError where the file is another one than when the run began."""
        if self._look() != self._seen:
            raise UserError(f"{self._file.where}: was changed while the run reads from it")
        row = self._spans.row_in_file(first) if last > first else 0
        return np.ascontiguousarray(self._file.as_input(self._file.x.read_rows(row, row + last - first)))

    def _look(self) -> tuple[int, int]:
        try:
            status = self._file.path.stat()
        except OSError as error:
            raise UserError(f"{self._file.where}: {error.strerror}, while the run reads from it") from error
        return status.st_size, status.st_mtime_ns


def _array(root: DataGroup, name: str, where: str) -> DataArray:
    found = root.array(name, f"{where}, {name}")
    if found is None:
        raise UserError(f"{where}: no {name}; {FLAT_LAYOUT}")
    return found


def _bounds(offsets: DataArray, num_rows: int, field: str) -> np.ndarray:
    """Return where each client's rows begin, and at last where all end, (M + 1,) int64; checked."""
    if len(offsets.shape) != 1 or offsets.dtype.kind not in "iu" or offsets.shape[0] < 2:
        raise UserError(
            f"{offsets.where}: is {offsets.dtype} of shape {offsets.shape}; it must hold an integer a client and one "
            f"more, for one client at least"
        )
    bounds = offsets.read()
    if int(bounds[0]) != 0 or int(bounds[-1]) != num_rows:
        raise UserError(
            f"{offsets.where}: go from {bounds[0]} to {bounds[-1]}; they must go from 0 to {num_rows}, the number of "
            f"{field}"
        )
    if len(falls := np.flatnonzero(bounds[1:] < bounds[:-1])):
        at = int(falls[0])
        raise UserError(f"{offsets.where}: fall from {bounds[at]} to {bounds[at + 1]} after entry {at}; they must not")
    return bounds.astype(np.int64)  # all of them are between 0 and the number of rows


def _check_names(names: list[str], where: str) -> None:
    refuse_names(names, where)
    if len(set(names)) < len(names):
        twice = next(one for one, other in pairwise(sorted(names)) if one == other)
        raise UserError(f"{where}: names {twice!r} more than once; a name is one client's")
