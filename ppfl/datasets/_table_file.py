"""Tables in CSV or Parquet: columns of numbers and of words, read within bounds."""

from __future__ import annotations

import csv
import math
from abc import ABC, abstractmethod
from array import array
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ppfl.core.errors import UserError
from ppfl.core.files import open_plain
from ppfl.datasets._data_bytes import open_bytes, refuse_size, told

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ppfl.datasets._data_bytes import DataBytes

_PARQUET = b"PAR1"
_ZERO = "\0"
"""Ends a text in NumPy and HDF5."""
_BATCH_ROWS = 1 << 14
_BYTES_OF_A_LETTER = 4
"""In texts of NumPy."""


class Words(NamedTuple):
    """A column of words."""

    values: np.ndarray
    """The different ones, ascending, texts."""
    of_row: np.ndarray
    """(R,) int64, which of them each row has."""

    @classmethod
    def of(cls, numbers: dict[str, int], of_row: Sequence[int] | array[int], where: str) -> Words:
        """Put those in order that were numbered as they came. Raises UserError for more text than memory holds."""
        # NumPy has all texts of an array as wide as the longest one, and those of all rows are asked for
        refuse_size(_BYTES_OF_A_LETTER * max(map(len, numbers), default=0) * len(of_row), math.inf, where)
        values = np.array(sorted(numbers))
        ranks = {word: rank for rank, word in enumerate(sorted(numbers))}
        places = np.array([ranks[word] for word in numbers], dtype=np.int64)
        return cls(values, places[np.array(of_row, dtype=np.int64)])


Columns = dict[str, "np.ndarray | Words"]
"""By name: (R,) float64, or words."""


class TableFile(ABC):
    """An open table, whose header has been read."""

    where: str
    """How messages begin."""
    names: tuple[str, ...]
    """Of its columns, each once."""

    @abstractmethod
    def read(self, numbers: Sequence[str], words: Sequence[str]) -> Columns:
        """Return some columns. Raises UserError for missing values, and for what is no number."""


@contextmanager
def open_table(path: Path, delimiter: str, where: str) -> Iterator[TableFile]:
    """Open a table in the format that its first bytes tell. Raises UserError for what is none."""
    with told(where), open_plain(path) as file:
        is_parquet = file.read(len(_PARQUET)) == _PARQUET
        if is_parquet:
            yield _Parquet(file, where)
    if not is_parquet:
        with open_bytes(path, where) as file:
            yield _CSV(file, delimiter)


def as_number(text: str) -> float:
    """Return the number that a text is, NaN for another text."""
    try:
        # Python reads 1_000, too
        return math.nan if "_" in text else float(text)
    except ValueError:
        return math.nan


def _words(numbers: dict[str, int], of_row: array[int], name: str, where: str) -> Words:
    return Words.of(numbers, of_row, f"{where}, column {name!r}, as wide as its longest text")


def _checked(names: Sequence[str], where: str) -> tuple[str, ...]:
    if len(set(names)) < len(names) or "" in names:
        bad = next(name for name in names if not name or names.count(name) > 1)
        raise UserError(
            f"{where}: the name {bad!r} of a column is empty or there twice; each must be a name of its own"
        )
    return tuple(names)


class _CSV(TableFile):
    """Text in UTF-8 with a line of names; cells may be quoted."""

    def __init__(self, file: DataBytes, delimiter: str) -> None:
        self.where = file.where
        self._rows = csv.reader(file.texts(), delimiter=delimiter, strict=True)
        header = self._next()
        if not header:
            raise UserError(f"{self.where}: is empty; the first line of a table has the names of its columns")
        self.names = _checked([name.strip() for name in header], self.where)

    def read(self, numbers: Sequence[str], words: Sequence[str]) -> Columns:
        """Return some columns, row by row."""
        found = {name: array("d") for name in numbers}
        known: dict[str, dict[str, int]] = {name: {} for name in words}
        of_row = {name: array("q") for name in words}
        places = {name: self.names.index(name) for name in (*numbers, *words)}
        while (row := self._next()) is not None:
            if not row:
                continue
            if len(row) != len(self.names):
                raise self._error(f"has {len(row)} cells; the table has {len(self.names)} columns")
            for name in numbers:
                found[name].append(self._number(row[places[name]], name))
            for name in words:
                cell = row[places[name]].strip()
                if not cell:
                    raise self._error("has no value; every row needs one", name)
                if _ZERO in cell:
                    raise self._error("has a character that is zero; a text must have none", name)
                of_row[name].append(known[name].setdefault(cell, len(known[name])))
        columns: Columns = {name: np.array(values) for name, values in found.items()}
        return {**columns, **{name: _words(known[name], of_row[name], name, self.where) for name in words}}

    def _number(self, cell: str, name: str) -> float:
        cell = cell.strip()
        if not cell:
            raise self._error("has no value; every row needs one", name)
        number = as_number(cell)
        if not math.isfinite(number):
            raise self._error(f"is {cell[:40]!r}; a finite number is needed, or the column among `categorical`", name)
        return number

    def _error(self, what: str, column: str | None = None) -> UserError:
        of_column = "" if column is None else f", column {column!r}"
        return UserError(f"{self.where}, line {self._rows.line_num}{of_column}: {what}")

    def _next(self) -> list[str] | None:
        try:
            return next(self._rows, None)
        except csv.Error as error:
            raise self._error(f"is no line of a table: {error}") from error


class _Parquet(TableFile):
    """Columns of integers, floating-point numbers, booleans and texts, read by pyarrow."""

    def __init__(self, file: Any, where: str) -> None:
        self.where = where
        try:
            from pyarrow import parquet
        except ImportError as error:
            raise UserError(f"{where}: is Parquet, which pyarrow reads: pip install 'ppfl[parquet]'") from error
        with self._told():
            self._file = parquet.ParquetFile(file)
            self.names = _checked(self._file.schema_arrow.names, where)

    def read(self, numbers: Sequence[str], words: Sequence[str]) -> Columns:
        """Return some columns, batch by batch."""
        wanted = [*numbers, *words]
        # a value that is repeated takes no room in the file
        refuse_size(8 * max(self._file.metadata.num_rows, 0) * len(wanted), math.inf, self.where)
        found: dict[str, list[np.ndarray]] = {name: [np.empty(0)] for name in numbers}
        known: dict[str, dict[str, int]] = {name: {} for name in words}
        of_row = {name: array("q") for name in words}
        row = 0
        with self._told():
            for batch in self._file.iter_batches(_BATCH_ROWS, columns=wanted, use_threads=False):
                for name in numbers:
                    found[name].append(self._numbers(batch.column(name), name, row))
                for name in words:
                    for cell in self._words(batch.column(name), name, row):
                        of_row[name].append(known[name].setdefault(cell, len(known[name])))
                row += batch.num_rows
        columns: Columns = {name: np.concatenate(pieces) for name, pieces in found.items()}
        return {**columns, **{name: _words(known[name], of_row[name], name, self.where) for name in words}}

    def _numbers(self, column: Any, name: str, row: int) -> np.ndarray:
        import pyarrow as pa

        kind = column.type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
            raise UserError(
                f"{self.where}, column {name!r}: is {kind}; a column of numbers is needed, or the column among "
                f"`categorical`"
            )
        self._refuse_missing(column, name, row)
        if pa.types.is_boolean(kind):
            column = column.cast(pa.uint8())
        numbers: np.ndarray = column.to_numpy(zero_copy_only=False).astype(np.float64)
        if len(wrong := np.flatnonzero(~np.isfinite(numbers))):
            raise UserError(
                f"{self.where}, row {row + int(wrong[0])}, column {name!r}: is {numbers[wrong[0]]}; a finite number is "
                f"needed"
            )
        return numbers

    def _words(self, column: Any, name: str, row: int) -> list[str]:
        self._refuse_missing(column, name, row)
        values = column.to_pylist()
        for number, value in enumerate(values):
            if not isinstance(value, str | int) or value == "" or (isinstance(value, str) and _ZERO in value):
                raise UserError(
                    f"{self.where}, row {row + number}, column {name!r}: is {str(value)[:40]!r}; a text without "
                    f"characters that are zero or an integer is needed"
                )
        return [str(value) for value in values]

    def _refuse_missing(self, column: Any, name: str, row: int) -> None:
        if column.null_count:
            first = row + column.is_null().to_pylist().index(True)
            raise UserError(f"{self.where}, row {first}, column {name!r}: has no value; every row needs one")

    @contextmanager
    def _told(self) -> Iterator[None]:
        import pyarrow as pa

        try:
            yield
        except (pa.ArrowException, ValueError, LookupError, TypeError, RuntimeError, OverflowError) as error:
            raise UserError(f"{self.where}: cannot be read as Parquet: {error or type(error).__name__}") from error
