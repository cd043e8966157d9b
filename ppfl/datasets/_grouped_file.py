"""Files with a group a client: examples/<client>/{pixels or image, label}; what else a group has is left alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ppfl.core.errors import UserError
from ppfl.datasets._sample_file import LABEL, ClientsOfFile, SampleFile, check_labels, check_samples
from ppfl.interfaces.dataset import Samples

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from ppfl.interfaces.data_hdf5 import DataArray, DataGroup

SAMPLE_FIELDS = ("pixels", "image")
GROUPED_LAYOUT = "the layout is examples/<client>/pixels (or image) and examples/<client>/label"


@dataclass(frozen=True)
class GroupedClients(ClientsOfFile):
    """The clients of such a file."""

    examples: DataGroup
    where: str
    names: Sequence[str]
    label: str

    @classmethod
    def of(cls, examples: DataGroup, where: str, label: str = LABEL) -> GroupedClients:
        """Look who they are. Raises UserError where there is none."""
        if not (names := examples.names()):
            raise UserError(f"{where} has no clients; {GROUPED_LAYOUT}")
        return cls(examples, where, names, label)

    def count(self, name: str) -> int:
        """Return how many labels a client has, all else unseen."""
        if name not in self._known:
            return 0
        labels = _array(self.examples, name, self.label, self.where)
        return labels.shape[0] if labels.shape else 0

    def look_at(self, names: Collection[str], most: int | None = None) -> GroupedFile:
        """Check the layout of these of its clients, one by one; of the first one where they are none of them."""
        found = [name for name in names if name in self._known]
        return GroupedFile.look_at(self.examples, self.where, found or self.names[:1], self.label).cut(found, most)

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.names)


@dataclass(frozen=True)
class GroupedFile(SampleFile):
    """A file whose samples are read client by client."""

    examples: DataGroup
    where: str
    field: str
    label: str
    num_samples: dict[str, int]
    """By name of the client."""
    sample_shape: tuple[int, ...]
    sample_dtype: np.dtype
    places: Mapping[str, tuple[int, int, np.dtype]]
    """Where samples and labels of a client are in the file, and the type of these, if both can be read from there."""
    label_shape: tuple[int, ...] = ()
    has_numbers: bool = False

    @classmethod
    def look_at(cls, examples: DataGroup, where: str, names: Sequence[str], label: str = LABEL) -> GroupedFile:
        """Check the layout of some clients without reading samples."""
        field = _sample_field(examples, names[0], where)
        shape, dtype, sizes, places = None, None, {}, {}
        of_labels: tuple[tuple[int, ...], bool] = ((), False)
        for name in names:  # one at a time: an open data set takes 17 kB
            x, y = _fields(examples, name, (field, label), where)
            looks = y.shape[1:], y.dtype.kind == "f"
            if shape is None:
                shape, dtype, of_labels = x.shape[1:], x.dtype, looks
            elif (x.shape[1:], x.dtype) != (shape, dtype):
                raise UserError(
                    f"{where}, client {name!r}: {field} are {x.dtype} of shape {x.shape[1:]} a sample, those of client "
                    f"{names[0]!r} are {dtype} of shape {shape}; they must agree"
                )
            elif looks != of_labels:
                raise UserError(f"{where}, client {name!r}: {label} looks otherwise than that of client {names[0]!r}")
            sizes[name] = y.shape[0]
            if x.place is not None and y.place is not None:
                places[name] = x.place, y.place, y.dtype
        assert shape is not None
        assert dtype is not None
        return cls(examples, where, field, label, sizes, shape, dtype, places, *of_labels)

    def cut(self, names: Sequence[str], most: int | None) -> GroupedFile:
        """Return the same with these clients alone, and at most so many samples of each."""
        if most is None and len(names) == len(self.num_samples):
            return self
        sizes = {name: self.num_samples[name] for name in names}
        return replace(self, num_samples={name: min(size, most or size) for name, size in sizes.items()})

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
        size, where = self.num_samples[name], f"{self.where}, client {name!r}"
        if name in self.places:  # opening both again would take as long as to read a hundred images
            of_x, of_y, dtype = self.places[name]
            x = self.examples.read_at(of_x, (size, *self.sample_shape), self.sample_dtype, f"{where}, {self.field}")
            y = self.examples.read_at(of_y, (size, *self.label_shape), dtype, f"{where}, {self.label}")
        else:
            of_client = _fields(self.examples, name, (self.field, self.label), self.where)
            x, y = (array.read() if array.shape[0] == size else array.read_rows(0, size) for array in of_client)
        check_labels(y, self.label, where)
        return x, y


def _sample_field(examples: DataGroup, client: str, where: str) -> str:
    """Return what samples are called in this file."""
    group = examples.group(client, f"{where}, client {client!r}")
    held = () if group is None else group.names()
    return next((name for name in SAMPLE_FIELDS if name in held), SAMPLE_FIELDS[0])


def _fields(examples: DataGroup, client: str, fields: tuple[str, str], where: str) -> tuple[DataArray, DataArray]:
    """Return the samples and labels of one client, checked but not read."""
    where = f"{where}, client {client!r}"
    group = examples.group(client, where)
    x, y = (None if group is None else group.array(name, f"{where}, {name}") for name in fields)
    if x is None or y is None:
        raise UserError(f"{where}: no {fields[x is not None]}; {_layout(fields[1])}")
    check_samples(x, y, fields, where, takes_numbers=True)
    return x, y


def _array(examples: DataGroup, client: str, field: str, where: str) -> DataArray:
    """Return one array of a client."""
    where = f"{where}, client {client!r}"
    group = examples.group(client, where)
    found = None if group is None else group.array(field, f"{where}, {field}")
    if found is None:
        raise UserError(f"{where}: no {field}; {_layout(field)}")
    return found


def _layout(label: str) -> str:
    """Say how files of this kind look."""
    return GROUPED_LAYOUT if label == LABEL else f"{GROUPED_LAYOUT}, where `label` names another field for it"
