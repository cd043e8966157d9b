"""Text files of LIBSVM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Discriminator, PositiveInt, Tag

from ppfl.core.data_file import DataFile
from ppfl.core.errors import UserError
from ppfl.datasets._arrays import Classes
from ppfl.datasets._data_bytes import open_bytes, refuse_size
from ppfl.interfaces.centralized import FilesDataset, refuse_field
from ppfl.interfaces.dataset import Samples
from ppfl.interfaces.file_or_fraction import Fraction, file_or_fraction
from ppfl.interfaces.partition import Pool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ppfl.core.plugins import Example
    from ppfl.datasets._data_bytes import DataBytes


class LIBSVM(FilesDataset):
    """Feature vectors in lines `label index:value …` with indices from 1 on; what a line leaves out is 0.

    Compressed by gzip or not, read by `sklearn.datasets.load_svmlight_file`, and dense in memory, 8 bytes a number.
    Source of the format: Chang & Lin, ACM TIST 2011, and the README of LIBSVM.
    """

    name: Literal["libsvm"]
    example: ClassVar[Example] = {
        "train": "train.svm", "test": "test.svm.gz", "partition": {"name": "shards", "clients": 6},
    }  # fmt: skip
    train: DataFile
    """File of the samples to train on, from which validation samples are taken."""
    test: Annotated[Annotated[DataFile, Tag("file")] | Fraction, Discriminator(file_or_fraction)] = 0.2
    """File of the samples to test on; or the fraction of each client's samples, rounded down."""
    labels: Literal["classes", "numbers"] = "classes"
    """What labels are: classes, which are numbered from 0 on in ascending order, or numbers, for regression."""
    features: PositiveInt | None = None
    """Length of a sample; null: the largest index of `train`."""

    def pools(self, field: str | None) -> tuple[Pool, Pool | None]:
        """Read all lines. Raises UserError for what is none, and features and labels that training does not have."""
        refuse_field(field, "a LIBSVM file", ())
        where = f"problem.dataset.train: {self.train.path}"
        x, y = _read(self.train, self.features, where)
        classes = Classes.of(y)

        def pool(x: np.ndarray, y: np.ndarray, where: str) -> Pool:
            return Pool(Samples(x, y if self.labels == "numbers" else classes.numbers(y, where)), where)

        train = pool(x, y, where)
        if isinstance(self.test, float):
            return train, None
        where = f"problem.dataset.test: {self.test.path}"
        return train, pool(*_read(self.test, x.shape[1], where), where)


def _read(file: DataFile, num_features: int | None, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return samples (S, features) and labels (S,), both float64."""
    from sklearn.datasets import load_svmlight_file

    with open_bytes(file.path, where) as opened:
        try:
            found: Any
            found, labels = load_svmlight_file(_Lines(opened), zero_based=False, dtype=np.float64)
        except (ValueError, OverflowError, TypeError, LookupError) as error:
            raise UserError(f"{where}: is no LIBSVM text: {error or type(error).__name__}") from error
    num_samples, number = found.shape
    if num_features is not None and number > num_features:
        raise UserError(f"{where}: has a feature with the index {number}; allowed are 1 to {num_features}")
    width = num_features or number
    if num_features is None and not found.nnz:
        raise UserError(f"{where}: no sample has a feature; `features` says how many there are")
    # an index can be any number: before memory is taken
    refuse_size(8 * num_samples * width, np.inf, f"{where}, {num_samples} samples of {width} features")
    found.resize((num_samples, width))
    return found.toarray(), labels


class _Lines:
    """What scikit-learn takes for a file: it asks whether it could be read, and goes through its lines."""

    def __init__(self, file: DataBytes) -> None:
        self._file = file

    def __iter__(self) -> Iterator[bytes]:
        return self._file.lines()

    def read(self) -> bytes:
        """Return all that follows."""
        return self._file.rest()
