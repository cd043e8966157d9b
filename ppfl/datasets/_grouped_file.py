"""Files with a group a client: examples/<client>/{pixels or image, label}."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ppfl.core.errors import UserError
from ppfl.datasets._sample_file import LABEL, SampleFile, check_labels, check_samples
from ppfl.interfaces.dataset import Samples

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ppfl.interfaces.data_hdf5 import DataArray, DataGroup

SAMPLE_FIELDS = ("pixels", "image")
GROUPED_LAYOUT = "the layout is examples/<client>/pixels (or image) and examples/<client>/label"


@dataclass(frozen=True)
class GroupedFile(SampleFile):
    """A file whose samples are read client by client."""

    examples: DataGroup
    where: str
    field: str
    num_samples: dict[str, int]
    """By name of the client."""
    sample_shape: tuple[int, ...]
    sample_dtype: np.dtype
    label_shape: tuple[int, ...] = ()
    has_numbers: bool = False

    @classmethod
    def look_at(cls, examples: DataGroup, where: str) -> GroupedFile:
        """Check the layout of all clients without reading samples."""
        names = examples.names()
        if not names:
            raise UserError(f"{where} has no clients; {GROUPED_LAYOUT}")
        field = _sample_field(examples, names[0], where)
        shape, dtype, sizes = None, None, {}
        of_labels: tuple[tuple[int, ...], bool] = ((), False)
        for name in names:  # one at a time: an open data set takes 17 kB
            x, y = _fields(examples, name, field, where)
            looks = y.shape[1:], y.dtype.kind == "f"
            if shape is None:
                shape, dtype, of_labels = x.shape[1:], x.dtype, looks
            elif (x.shape[1:], x.dtype) != (shape, dtype):
                raise UserError(
                    f"{where}, client {name!r}: {field} are {x.dtype} of shape {x.shape[1:]} a sample, those of client "
                    f"{names[0]!r} are {dtype} of shape {shape}; they must agree"
                )
            elif looks != of_labels:
                raise UserError(f"{where}, client {name!r}: {LABEL} looks otherwise than that of client {names[0]!r}")
            sizes[name] = y.shape[0]
        assert shape is not None
        assert dtype is not None
        return cls(examples, where, field, sizes, shape, dtype, *of_labels)

    def sizes(self) -> Mapping[str, int]:
        """Return the number of samples of every client."""
        return self.num_samples

    def read(self, name: str) -> Samples:
        """Read all samples of one client; none when this file does not name it."""
        if name not in self.num_samples:
            return self.nothing()
        x, y = self.read_stored(name)
        return Samples(np.ascontiguousarray(self.as_input(x)), y.astype(self.kept_dtype))

    def read_stored(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Read samples and labels of one client as they are stored. Raises UserError for broken labels."""
        x, y = (array.read() for array in _fields(self.examples, name, self.field, self.where))
        check_labels(y, f"{self.where}, client {name!r}")
        return x, y


def _sample_field(examples: DataGroup, client: str, where: str) -> str:
    """Return what samples are called in this file."""
    group = examples.group(client, f"{where}, client {client!r}")
    held = () if group is None else group.names()
    return next((name for name in SAMPLE_FIELDS if name in held), SAMPLE_FIELDS[0])


def _fields(examples: DataGroup, client: str, field: str, where: str) -> tuple[DataArray, DataArray]:
    """Return the samples and labels of one client, checked but not read."""
    where = f"{where}, client {client!r}"
    group = examples.group(client, where)
    x, y = (None if group is None else group.array(name, f"{where}, {name}") for name in (field, LABEL))
    if x is None or y is None:
        raise UserError(f"{where}: no {field if x is None else LABEL}; {GROUPED_LAYOUT}")
    check_samples(x, y, field, where, takes_numbers=True)
    return x, y
