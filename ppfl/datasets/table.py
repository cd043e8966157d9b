"""Tables in CSV or Parquet."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import Discriminator, Field, Tag, model_validator

from ppfl.core.data_file import DataFile
from ppfl.core.errors import UserError
from ppfl.core.plugins import refusal
from ppfl.datasets._arrays import Classes
from ppfl.datasets._data_bytes import refuse_size
from ppfl.datasets._table_file import Words, as_number, open_table
from ppfl.interfaces.centralized import FilesDataset
from ppfl.interfaces.dataset import Samples
from ppfl.interfaces.file_or_fraction import Fraction, file_or_fraction
from ppfl.interfaces.partition import Pool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ppfl.core.plugins import Example
    from ppfl.datasets._table_file import Columns

_NOT_FINITE = ("nan", "inf", "infinity")
_SHOWN = 20
"""Names that an error lists, at the most."""
Name = Annotated[str, Field(min_length=1)]


class Table(FilesDataset):
    """Rows of a table as feature vectors: columns of numbers as they are, a column of words as one 0 or 1 for each word
    that `train` has in it, in the order of texts; columns in the order of the file.

    A CSV file is text in UTF-8, compressed by gzip or not, whose first line has the names of the columns; Parquet is
    seen by its first bytes. Missing values are refused.
    """

    name: Literal["table"]
    example: ClassVar[Example] = {
        "train": "train.csv", "test": "test.csv", "label": "income", "categorical": ["work"],
        "partition": {"name": "by_field", "field": "who"},
    }  # fmt: skip
    train: DataFile
    """File of the samples to train on, from which validation samples are taken."""
    test: Annotated[Annotated[DataFile, Tag("file")] | Fraction, Discriminator(file_or_fraction)] = 0.2
    """File of the samples to test on; or the fraction of each client's samples, rounded down."""
    label: Name
    """The column of labels."""
    labels: Literal["classes", "numbers"] = "classes"
    """What labels are: classes, which are numbered from 0 on, in ascending order of numbers or else of texts; or
    numbers, for regression."""
    features: Annotated[tuple[Name, ...], Field(strict=False, min_length=1)] | None = None
    """The columns that are features; null: all but the label, and the field of the partition."""
    categorical: Annotated[tuple[Name, ...], Field(strict=False)] = ()
    """Those of them that hold words."""
    standardize: bool = False
    """Whether of a column of numbers the mean is subtracted, and it is divided by the standard deviation, both of the
    samples that clients train on, together."""
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    """What stands between the cells of a CSV file."""

    @model_validator(mode="after")
    def _features_fit(self) -> Self:
        chosen = self.features or ()
        for key in ("features", "categorical"):
            names = getattr(self, key) or ()
            if len(set(names)) < len(names) or self.label in names:
                raise refusal(key, "columns, each once, and not the label")
        if self.features is not None and (others := [name for name in self.categorical if name not in chosen]):
            raise refusal("categorical", f"some of the features; {others[0]!r} is none of them")
        return self

    @property
    def is_fitted(self) -> bool:
        """`standardize`."""
        return self.standardize

    def pools(self, field: str | None) -> tuple[Pool, Pool | None]:
        """Read the columns. Raises UserError for missing columns and values, and words that training does not have."""
        train = self._read(self.train, "train", field)
        made = _Maker(train, _classes(train.label, train.where) if isinstance(train.label, Words) else None)
        if isinstance(self.test, float):
            return made.pool(train), None
        test = self._read(self.test, "test", field)
        if [*test.features] != [*train.features]:
            raise UserError(
                f"{test.where}: the features are {_shown([*test.features])}, those in {train.where} are "
                f"{_shown([*train.features])}; they must agree"
            )
        return made.pool(train), made.pool(test)

    def fitted(self, pool: Pool, tests: Pool | None, in_training: np.ndarray) -> tuple[Pool, Pool | None]:
        """Return samples whose columns of numbers have mean 0 and standard deviation 1 over those trained on."""
        assert isinstance(pool, _TablePool)
        x = pool.samples.x[in_training]
        # by extremes: the mean of equal numbers may be another one in the last digit, and deviations from it noise
        varies = np.array(pool.are_numbers) & (x.max(axis=0) > x.min(axis=0))

        def scaled(one: Pool) -> Pool:
            samples = Samples((one.samples.x - mean) / deviation, one.samples.y)
            return replace(one, samples=samples, where=f"{one.where}, standardized")

        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite then is refused
            mean = np.where(varies, x.mean(axis=0), np.where(pool.are_numbers, x[0], 0.0))
            deviation = np.where(varies, x.std(axis=0), 1.0)
            deviation[deviation == 0] = 1.0  # of numbers whose squares are too small to be any
            return scaled(pool), None if tests is None else scaled(tests)

    def _read(self, file: DataFile, key: str, field: str | None) -> _Rows:
        where = f"problem.dataset.{key}: {file.path}"
        with open_table(file.path, self.delimiter, where) as table:
            features = [name for name in table.names if name in (self.features or table.names)]
            if self.features is None:
                features = [name for name in features if name not in (self.label, field)]
            asked: dict[str, tuple[str, ...]] = {"label": (self.label,), "categorical": self.categorical}
            asked |= {"features": self.features or (), "partition.field": () if field is None else (field,)}
            for setting, names in asked.items():
                if missing := [name for name in names if name not in table.names]:
                    allowed = _shown(table.names)
                    raise UserError(
                        f"problem.dataset.{setting}: {missing[0]!r} is no column of {file.path}; allowed are {allowed}"
                    )
            if not features:
                raise UserError(f"{where}: has no column beside the label; a sample needs a feature")
            words = {*self.categorical, *((self.label,) if self.labels == "classes" else ())}
            numbers = [name for name in (*features, self.label) if name not in words]
            if field in numbers:
                raise UserError(
                    f"problem.dataset.partition.field: {field!r} is a column of numbers that are learned from"
                )
            words |= {field} if field is not None else set()
            columns = table.read(numbers, [name for name in table.names if name in words])
        owners = columns[field] if field is not None else None
        return _Rows({name: columns[name] for name in features}, columns[self.label], owners, where)


@dataclass(frozen=True)
class _Rows:
    """What was read of a table."""

    features: Columns
    label: np.ndarray | Words
    owners: np.ndarray | Words | None
    where: str


@dataclass(frozen=True)
class _TablePool(Pool):
    are_numbers: tuple[bool, ...] = ()
    """Of each feature, whether it is a column of numbers."""


@dataclass(frozen=True)
class _Maker:
    """Makes samples of rows, with the words and classes of those to train on."""

    train: _Rows
    classes: Classes | None

    def pool(self, rows: _Rows) -> _TablePool:
        blocks, are_numbers = [], []
        for name, column in rows.features.items():
            if isinstance(column, Words):
                blocks.append(self._one_for_each_word(name, column, rows.where))
            else:
                blocks.append(column[:, None])
            are_numbers += [not isinstance(column, Words)] * blocks[-1].shape[1]
        x, label = np.concatenate(blocks, axis=1), rows.label
        y = label if isinstance(label, np.ndarray) else self._class_numbers(label, rows.where)
        owners = None if rows.owners is None else _texts(rows.owners)
        return _TablePool(Samples(x, y), rows.where, owners, tuple(are_numbers))

    def _class_numbers(self, label: Words, where: str) -> np.ndarray:
        """Return the classes (R,) of labels; raises UserError for one that training does not have."""
        assert self.classes is not None
        if self.classes.values.dtype.kind != "f":
            return self.classes.numbers(_texts(label), where)
        numbers = _numbers(label)
        if len(others := np.flatnonzero(~np.isfinite(numbers))):
            row = int(np.flatnonzero(label.of_row == others[0])[0])
            raise self.classes.refusal(row, label.values[others[0]], where)
        return self.classes.numbers(numbers[label.of_row], where)

    def _one_for_each_word(self, name: str, column: Words, where: str) -> np.ndarray:
        """Return the columns of 0 and 1, (R, words); raises UserError for a word that training does not have."""
        known = self.train.features[name]
        assert isinstance(known, Words)
        refuse_size(
            8 * len(column.of_row) * len(known.values), math.inf, f"{where}, column {name!r}, one for each word"
        )
        places = np.minimum(np.searchsorted(known.values, column.values), len(known.values) - 1)
        if len(unknown := np.flatnonzero(known.values[places] != column.values)):
            raise UserError(
                f"{where}, column {name!r}: has {str(column.values[unknown[0]])!r}; the samples to train on have "
                f"{_shown(known.values.tolist())}"
            )
        found = np.zeros((len(column.of_row), len(known.values)))
        found[np.arange(len(found)), places[column.of_row]] = 1.0
        return found


def _classes(label: Words, where: str) -> Classes:
    """Return the classes that labels are of: numbers where all of them are such, or texts.

    Raises UserError for NaN or inf among numbers, by which many programs mean that nothing is known.
    """
    numbers = _numbers(label)
    if np.isfinite(numbers).all():
        return Classes.of(numbers)
    is_named = np.array([text.strip().lstrip("+-").lower() in _NOT_FINITE for text in label.values.tolist()])
    if is_named.any() and (is_named | np.isfinite(numbers)).all() and not is_named.all():
        row = int(np.flatnonzero(is_named[label.of_row])[0])
        text = label.values[label.of_row[row]]
        raise UserError(f"{where}: the label of sample {row} is {text}, among numbers; every sample needs one")
    return Classes.of(label.values)


def _numbers(label: Words) -> np.ndarray:
    """Return the number that each different text is, NaN for others."""
    return np.array([as_number(text) for text in label.values.tolist()])


def _texts(owners: np.ndarray | Words) -> np.ndarray:
    assert isinstance(owners, Words)
    of_row: np.ndarray = owners.values[owners.of_row]
    return of_row


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
