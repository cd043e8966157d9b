"""IDX files: MNIST, Fashion-MNIST, EMNIST."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Discriminator, Tag

from ppfl.core.data_file import DataFile
from ppfl.core.errors import UserError
from ppfl.core.plugins import Settings
from ppfl.datasets._arrays import refuse_unlike, samples_of
from ppfl.datasets._data_bytes import open_bytes
from ppfl.interfaces.centralized import FilesDataset, refuse_field
from ppfl.interfaces.file_or_fraction import Fraction, file_or_fraction
from ppfl.interfaces.partition import Pool

if TYPE_CHECKING:
    from pathlib import Path

    from ppfl.core.plugins import Example

_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


class IDXFiles(Settings):
    """Images and their labels, each as published, compressed by gzip or not."""

    images: DataFile
    """(S, height, width) or (S, features), unsigned bytes, which are scaled to [0, 1], or floating point."""
    labels: DataFile
    """(S,) integers."""


class IDX(FilesDataset):
    """Grey images or feature vectors and their classes, in the files of MNIST, Fashion-MNIST and EMNIST.

    Source of the layout: LeCun, Cortes, Burges, "The MNIST database", section on the IDX file format.
    """

    name: Literal["idx"]
    example: ClassVar[Example] = {
        "train": {"images": "train-images.gz", "labels": "train-labels"},
        "test": {"images": "test-images", "labels": "test-labels.gz"},
        "partition": {"name": "iid", "clients": 6},
    }  # fmt: skip
    train: IDXFiles
    """The files of the samples to train on, from which validation samples are taken."""
    test: Annotated[Annotated[IDXFiles, Tag("file")] | Fraction, Discriminator(file_or_fraction)] = 0.2
    """The files of the samples to test on; or the fraction of each client's samples, rounded down."""
    transpose: bool = False
    """Whether rows and columns of images are exchanged, as EMNIST's are stored."""

    def pools(self, field: str | None) -> tuple[Pool, Pool | None]:
        """Read images and labels. Raises UserError for files that are not IDX, and numbers that do not agree."""
        refuse_field(field, "an IDX file", ())
        train = self._pool(self.train, "train")
        if isinstance(self.test, float):
            return train, None
        test = self._pool(self.test, "test")
        refuse_unlike(test.samples, train.samples, test.where, train.where)
        return train, test

    def _pool(self, files: IDXFiles, key: str) -> Pool:
        where = f"problem.dataset.{key}.images: {files.images.path}"
        of_labels = f"problem.dataset.{key}.labels: {files.labels.path}"
        x, y = _read(files.images.path, where), _read(files.labels.path, of_labels)
        if self.transpose:
            if x.ndim != 3:
                raise UserError(f"{where}: samples have shape {x.shape}; only images can be transposed")
            x = np.ascontiguousarray(x.swapaxes(1, 2))
        if y.dtype.kind == "f":
            raise UserError(f"{of_labels}: labels are {y.dtype}; allowed are integers")
        return Pool(samples_of(x, y, where, of_labels), of_labels)


def _read(path: Path, where: str) -> np.ndarray:
    """Return the array of a file: two zeros, type, number of axes; their lengths in 4 bytes each, big end first."""
    with open_bytes(path, where) as file:
        zeros, kind, num_axes = file.read(2), *file.read(2)
        if zeros != b"\0\0" or kind not in _TYPES or not 1 <= num_axes <= 3:
            raise UserError(
                f"{where}: begins with {zeros.hex()}{kind:02x}{num_axes:02x}; an IDX file begins with 0000, its type "
                f"and 01, 02 or 03 axes"
            )
        shape = file.array((num_axes,), np.dtype(">u4")).tolist()
        numbers = file.array(shape, np.dtype(_TYPES[kind]))
        file.end()
    return numbers
