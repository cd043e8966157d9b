"""The binary version of CIFAR-10 and CIFAR-100."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import Discriminator, Field, Tag, model_validator

from ppfl.core.data_file import DataFile
from ppfl.core.errors import UserError
from ppfl.core.plugins import refusal
from ppfl.datasets._data_bytes import open_bytes
from ppfl.interfaces.centralized import FilesDataset, refuse_field
from ppfl.interfaces.dataset import Samples
from ppfl.interfaces.file_or_fraction import Fraction, file_or_fraction
from ppfl.interfaces.partition import Pool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ppfl.core.plugins import Example

_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_LABELS: dict[int, dict[str, int]] = {10: {"label": 10}, 100: {"coarse_label": 20, "label": 100}}
"""By the number of classes: the bytes before the pixels of an image, and how many values each has."""


class CIFARBinary(FilesDataset):
    """Images (3, 32, 32), scaled to [0, 1], of 10 or 100 classes, in the files of the binary version: per image a byte
    for each of its labels and 3072 for red, green and blue, row by row.

    They may be compressed by gzip.
    Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009, and the page of the data sets.
    """

    name: Literal["cifar_binary"]
    example: ClassVar[Example] = {
        "train": ["data_batch_1.bin", "data_batch_2.bin"], "test": "test_batch.bin", "classes": 10,
        "partition": {"name": "iid", "clients": 6},
    }  # fmt: skip
    train: Annotated[tuple[DataFile, ...], Field(strict=False, min_length=1)]
    """Files of the samples to train on, one after another, from which validation samples are taken."""
    test: Annotated[Annotated[DataFile, Tag("file")] | Fraction, Discriminator(file_or_fraction)] = 0.2
    """File of the samples to test on; or the fraction of each client's samples, rounded down."""
    classes: Literal[10, 100]
    """Which of the two."""
    label: Literal["label", "coarse_label"] = "label"
    """What is learned: the class, or which of 20 groups it is of; CIFAR-100 has both."""

    @model_validator(mode="after")
    def _has_the_label(self) -> Self:
        if self.label not in _LABELS[self.classes]:
            raise refusal("label", "label, since CIFAR-10 has no groups of classes")
        return self

    def pools(self, field: str | None) -> tuple[Pool, Pool | None]:
        """Read all records. Raises UserError for files that do not consist of them, and labels that are none."""
        refuse_field(field, f"CIFAR-{self.classes}", tuple(_LABELS[self.classes]))
        train = self._pool(self.train, "train", field)
        return train, None if isinstance(self.test, float) else self._pool([self.test], "test", field)

    def _pool(self, files: Sequence[DataFile], key: str, field: str | None) -> Pool:
        records = np.concatenate([self._read(file, f"problem.dataset.{key}: {file.path}") for file in files])
        labels = [*_LABELS[self.classes]]
        x = np.ascontiguousarray(records[:, len(labels) :]).reshape(-1, *_SHAPE)
        y = records[:, labels.index(self.label)].astype(np.int64)
        of_field = None
        if field is not None:
            # of one width, so that texts have the order of numbers
            of_field = np.array([f"{value:02d}" for value in range(256)])[records[:, labels.index(field)]]
        return Pool(Samples(x, y), f"problem.dataset.{key}: {files[0].path}, {self.label}", of_field)

    def _read(self, file: DataFile, where: str) -> np.ndarray:
        """Return the records of a file, (S, labels and pixels) uint8."""
        labels = _LABELS[self.classes]
        width = len(labels) + _PIXELS
        with open_bytes(file.path, where) as opened:
            content = opened.rest()
        if not content or len(content) % width:
            raise UserError(
                f"{where}: has {len(content):,} bytes; the binary version of CIFAR-{self.classes} has {width} an image"
            )
        records = np.frombuffer(content, np.uint8).reshape(-1, width)
        for column, (label, number) in enumerate(labels.items()):
            if len(wrong := np.flatnonzero(records[:, column] >= number)):
                found = records[wrong[0], column]
                raise UserError(f"{where}: image {wrong[0]} has {label} {found}; allowed are 0 to {number - 1}")
        return records
