"""Samples whose file says whose they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from ppfl.core.plugins import Resolved
from ppfl.interfaces.client_names import refuse_names
from ppfl.interfaces.partition import Hands, Partition, Pool

if TYPE_CHECKING:
    from ppfl.core.plugins import Example


class ByField(Partition):
    """The clients are the values of a field of the file, in their order as texts; each has the samples with its value.

    Where there are samples to test on, the field tells whose they are, too: a client may have one kind alone.
    """

    name: Literal["by_field"]
    example: ClassVar[Example] = {"field": "who"}
    clients: Resolved[int] = 0
    """The file says how many."""
    field: Annotated[str, Field(min_length=1)]
    """A column of a table, an array of an NPZ file, or `coarse_label` of CIFAR-100."""

    @property
    def num_samples_needed(self) -> int:
        """One: clients are those that have one."""
        return 1

    @property
    def field_needed(self) -> str:
        """`field`."""
        return self.field

    def assign(self, labels: np.ndarray, seed: int) -> list[np.ndarray]:
        """Return for each value of the field, here the label, the ascending indices of its samples."""
        self.check(len(labels))
        return [np.flatnonzero(labels == value) for value in np.unique(labels)]

    def deal(self, pool: Pool, tests: Pool | None, seed: int) -> Hands:
        """Return the samples of each client by the field of both pools."""
        names, rows = _rows_by_value(pool)
        if tests is None:
            return Hands(names, list(rows.values()))
        _, test_rows = _rows_by_value(tests)
        nobodys = np.empty(0, np.int64)
        everybody = tuple(sorted({*rows, *test_rows}))
        return Hands(
            everybody,
            [rows.get(name, nobodys) for name in everybody],
            [test_rows.get(name, nobodys) for name in everybody],
        )


def _rows_by_value(pool: Pool) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    assert pool.field is not None
    values, of_sample = np.unique(pool.field, return_inverse=True)
    order = np.argsort(of_sample, kind="stable")
    pieces = np.split(order, np.cumsum(np.bincount(of_sample, minlength=len(values)))[:-1])
    names = tuple(values.tolist())
    refuse_names(names, f"{pool.where}, the field of the partition")
    return names, dict(zip(names, pieces, strict=True))
