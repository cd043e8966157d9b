"""The bytes of a result file: HDF5 with dimension scales, built in memory.

Nearly all of the time goes into what most runs of a pack have in common. So a skeleton is built first, a file without
what differs between them: all numbers, and some attributes. It is kept for the next file of the same structure, and
filled.
"""

from __future__ import annotations

import threading
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import h5py
import numpy as np

from ppfl.results.layout import FILE_KIND
from ppfl.results.seal import CHECKSUM, blank, sealed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_TEXT = h5py.string_dtype()
_ONE_AT_A_TIME = threading.Lock()
_FIRST_TEXT = "kind"
_MOST_KEPT_BYTES = 2**20
"""Of the variables of a result whose skeleton is kept."""


class Variable(NamedTuple):
    """An array with named dimensions; one that is named like its dimension holds what is along it, as in xarray."""

    name: str
    values: np.ndarray
    """Numbers, or texts as objects."""
    dimensions: tuple[str, ...]
    """Of each axis; what is along them are variables of the same group."""


class Group(NamedTuple):
    """A group of the file; "/" is the file itself."""

    name: str
    constants: Mapping[str, str | int]
    """Attributes that are those of many files."""
    attributes: Mapping[str, Any]
    """Those that differ: numbers and texts."""
    variables: Sequence[Variable] = ()


class _Kind(NamedTuple):
    """What of a value is structure."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    texts: tuple[str, ...] = ()
    """Of a variable: names of clients, say, are those of all runs of a pack."""


class _GroupKind(NamedTuple):
    name: str
    constants: tuple[tuple[str, type[str | int], str | int], ...]
    """With their types: 1 is equal to True."""
    attributes: tuple[tuple[str, _Kind], ...]
    variables: tuple[tuple[str, _Kind, tuple[str, ...]], ...]


class _Skeleton(NamedTuple):
    image: bytes
    offsets: tuple[int | None, ...]
    """Where the numbers of each variable begin; None for texts, and where there are none."""


def image_of(groups: Sequence[Group]) -> bytes:
    """Return the content of a result file, with its checksum."""
    structure = tuple(_kind_of_group(group) for group in groups)
    num_bytes = sum(values.nbytes for group in groups for _, values, _ in group.variables)
    # several threads save at once; HDF5 does one thing at a time, and files in memory are told apart by their names
    with _ONE_AT_A_TIME:
        skeleton = (_kept_skeleton if num_bytes <= _MOST_KEPT_BYTES else _skeleton)(structure)
        image = bytearray(_with_attributes(skeleton.image, groups))
    variables = [variable for group in groups for variable in group.variables]
    for variable, offset in zip(variables, skeleton.offsets, strict=True):
        if offset is not None:
            image[offset : offset + variable.values.nbytes] = variable.values.tobytes()
    return sealed(image)


def _kind_of_group(group: Group) -> _GroupKind:
    attributes = tuple((name, _kind_of(value)) for name, value in group.attributes.items())
    variables = []
    for name, values, dimensions in group.variables:
        kind = _kind_of(values)
        texts = tuple(map(str, values.ravel())) if kind.dtype == _TEXT else ()
        variables.append((name, kind._replace(texts=texts), dimensions))
    constants = tuple((name, type(value), value) for name, value in group.constants.items())
    return _GroupKind(group.name, constants, attributes, tuple(variables))


def _kind_of(value: Any) -> _Kind:
    array = np.asarray(value)
    return _Kind(_TEXT if array.dtype.kind in "OU" else array.dtype, array.shape)


def _skeleton(structure: tuple[_GroupKind, ...]) -> _Skeleton:
    with h5py.File("image", "w", driver="core", backing_store=False) as file:
        file.attrs[CHECKSUM] = np.bytes_(blank(FILE_KIND))  # the first of all, so that it is near the beginning
        file.attrs[_FIRST_TEXT] = FILE_KIND
        datasets = [data for kind in structure for data in _created(file, kind)]
        offsets = tuple(None if data.dtype == _TEXT else data.id.get_offset() for data in datasets)
        file.flush()
        return _Skeleton(file.id.get_file_image(), offsets)


_kept_skeleton = lru_cache(8)(_skeleton)


def _created(file: h5py.File, kind: _GroupKind) -> list[h5py.Dataset]:
    group = file.require_group(kind.name)
    group.attrs.update({name: value for name, _, value in kind.constants})
    for name, (dtype, shape, _) in kind.attributes:
        stored_type = h5py.h5t.py_create(dtype, logical=True)
        h5py.h5a.create(group.id, name.encode(), stored_type, h5py.h5s.create_simple(shape))
    # all of them before their dimensions: HDF5 leaves gaps where the list of what a scale belongs to grows
    datasets = [
        group.create_dataset(name, data=np.array(texts, _TEXT).reshape(shape) if texts else np.zeros(shape, dtype))
        for name, (dtype, shape, texts), _ in kind.variables
    ]
    for data, (name, _, dimensions) in zip(datasets, kind.variables, strict=True):
        if dimensions == (name,):
            data.make_scale(name)
            continue
        for axis, dimension in enumerate(dimensions):
            data.dims[axis].attach_scale(group[dimension])
    return datasets


def _with_attributes(skeleton: bytes, groups: Sequence[Group]) -> bytes:
    """Return a skeleton with the values of attributes; only HDF5 can put texts into a file, as their lengths differ."""
    file = h5py.h5f.open_file_image(skeleton, h5py.h5f.FILE_IMAGE_OPEN_RW)
    try:
        # HDF5 puts texts to those that it has seen, and else begins another heap of 4 KiB
        h5py.h5a.open(file, _FIRST_TEXT.encode()).read(np.empty((), _TEXT))
        for group in groups:
            if group.attributes:
                opened = h5py.h5g.open(file, group.name.encode())
                for name, value in group.attributes.items():
                    array = np.array(value, _TEXT) if isinstance(value, str) else np.asarray(value)
                    h5py.h5a.open(opened, name.encode()).write(array, _type_in_memory(array.dtype))
        h5py.h5f.flush(file)
        return file.get_file_image()  # type: ignore[no-any-return]
    finally:
        file.close()


@cache
def _type_in_memory(dtype: np.dtype[Any]) -> h5py.h5t.TypeID:
    return h5py.h5t.py_create(_TEXT if dtype == _TEXT else dtype)
