"""Writes a grid of results into one file: dimensions are what varies, as xarray reads it.

/            attributes: kind, name, common (the keys that do not vary, JSON), counts of statuses
<parameter>  coordinates: values of what varies, with `path` (the whole key) and `holds` (number, text, bool, mixed)
round        the rounds that any run was evaluated at; `recorded` says which of them each run has
<series>     (grid …, round), or (grid …, round, client): scores and costs
final_<metric>  (grid …, stage, statistic)
has_<variable>  (grid …): whether a run has it, where results differ in what they have
status, reason, digest, num_rounds_recorded, results_version, commit, …   (grid …)
recorded     (grid …, round), scored (grid …, stage)
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from ppfl.core.errors import UserError
from ppfl.core.files import whole_path
from ppfl.results.quick_reader import kind_of
from ppfl.results.seal import CHECKSUM, blank, fill

Array = npt.NDArray[Any]
Block = tuple[slice, ...]

COLLECTION_KIND = "ppfl collection"
FINAL, HAS = "final_", "has_"
"""Beginnings of names: final metrics; for which cells a variable is there, where it is not for all results."""
_BLOCK_BYTES = 2**22
_MAX_BLOCK_CELLS = 256


def is_collection(path: Path) -> bool:
    """Whether a file is a collected grid."""
    return kind_of(path) == COLLECTION_KIND


@contextmanager
def new_collection(out: Path) -> Iterator[CollectionWriter]:
    """Give a writer whose file gets its name when the block ends without an exception.

    Raises UserError when the name is taken by anything but a collection, and when the file cannot be written.
    """
    if out.exists() and not is_collection(out):
        raise UserError(f"--out {out}: exists and is no collected grid; choose another name")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole_path(out) as partial:
            with h5py.File(partial, "x", locking=False) as file:
                file.attrs[CHECKSUM] = np.bytes_(blank(COLLECTION_KIND))  # the first, so that it is near the beginning
                file.attrs["kind"] = COLLECTION_KIND
                yield CollectionWriter(file)
            fill(partial)
    except OSError as error:
        raise UserError(f"--out {out}: cannot write it: {_why(error)}") from error


def _why(error: OSError) -> str:
    """Return what the system says; HDF5 adds all that it was about to do."""
    return os.strerror(error.errno) if error.errno else str(error)


class CollectionWriter:
    """Writes coordinates, then whole variables, then large ones block by block: one block of the grid is one chunk."""

    def __init__(self, file: h5py.File) -> None:
        self._file = file
        self._grid: tuple[str, ...] = ()
        self._cells_at_once = 1

    def describe(self, attributes: Mapping[str, Any]) -> None:
        """Add attributes to the file."""
        self._file.attrs.update(attributes)

    def set_grid(self, dimensions: Sequence[str], cell_bytes: int) -> None:
        """Say which coordinates span the grid, and how large the largest variable is for one cell."""
        self._grid = tuple(dimensions)
        self._cells_at_once = min(max(_BLOCK_BYTES // max(cell_bytes, 1), 1), _MAX_BLOCK_CELLS)
        self._file.attrs["grid"] = json.dumps(self._grid)

    @property
    def shape(self) -> tuple[int, ...]:
        """Cells along each dimension of the grid."""
        return tuple(self._size(name) for name in self._grid)

    def add_dimension(self, name: str, values: Array, attributes: Mapping[str, Any]) -> None:
        """Write a dimension with the values along it."""
        self._create(name, values, attributes).make_scale(name)

    def add_variable(self, name: str, dimensions: Sequence[str], values: Array, attributes: Mapping[str, Any]) -> None:
        """Write a variable over dimensions that are there."""
        self._attach(self._create(name, values, attributes), dimensions)

    def add_cells(self, name: str, values: Array, attributes: Mapping[str, Any]) -> None:
        """Write a variable with one value a cell, given in C order."""
        self.add_variable(name, self._grid, values.reshape(self.shape), attributes)

    def declare(
        self, name: str, beyond: Sequence[str], dtype: np.dtype[Any], fill: Any, attributes: Mapping[str, Any]
    ) -> None:
        """Make room for a variable over the grid and further dimensions; `write_block` fills it."""
        extent = tuple(self._size(dimension) for dimension in beyond)
        # a chunk is what is written at once: HDF5 compresses each once, and none is read back to be filled up
        first = next(iter(self.blocks()))[0]
        chunk = tuple(part.stop - part.start for part in first) + extent
        data = self._file.create_dataset(
            name, (*self.shape, *extent), dtype, chunks=chunk, fillvalue=fill, compression="gzip", compression_opts=1,
            shuffle=True,
        )  # fmt: skip
        data.attrs.update(attributes)
        self._attach(data, [*self._grid, *beyond])

    def blocks(self) -> Iterator[tuple[Block, Array]]:
        """Yield (place, numbers of its cells in C order), few enough cells to be held in memory."""
        numbers = np.arange(prod(self.shape)).reshape(self.shape)
        for place in _blocks(self.shape, self._cells_at_once):
            yield place, numbers[place].ravel()

    def write_block(self, name: str, place: Block, values: Array) -> None:
        """Write the values (cells, …) of one block."""
        data = self._file[name]
        cells = tuple(part.stop - part.start for part in place)
        data[place] = values.reshape(cells + values.shape[1:])

    def _size(self, dimension: str) -> int:
        return int(self._file[dimension].shape[0])

    def _create(self, name: str, values: Array, attributes: Mapping[str, Any]) -> h5py.Dataset:
        kind = h5py.string_dtype() if values.dtype.kind in "OU" else None
        data = self._file.create_dataset(name, data=values.astype(object) if kind else values, dtype=kind)
        data.attrs.update(attributes)
        return data

    def _attach(self, data: h5py.Dataset, dimensions: Sequence[str]) -> None:
        for axis, dimension in enumerate(dimensions):
            data.dims[axis].attach_scale(self._file[dimension])


def _blocks(shape: tuple[int, ...], most: int) -> Iterator[Block]:
    """Cut a grid into boxes of at most `most` cells, whole in the last dimensions."""
    axis, inner = len(shape), 1
    while axis > 0 and inner * shape[axis - 1] <= most:
        axis -= 1
        inner *= shape[axis]
    whole = tuple(slice(0, size) for size in shape[axis:])
    if axis == 0:
        yield whole
        return
    step = max(most // inner, 1)
    for lead in np.ndindex(*shape[: axis - 1]):
        for start in range(0, shape[axis - 1], step):
            cut = slice(start, min(start + step, shape[axis - 1]))
            yield (*(slice(number, number + 1) for number in lead), cut, *whole)
