"""The bytes of a result file: HDF5 with dimension scales, built in memory.

Nearly all of the time goes into what most runs of a pack have in common. So a skeleton is built first, a file without
what differs between them: all numbers, and some attributes. It is kept for the next file of the same structure, and
filled. Attributes are put into it by HDF5 once for texts of the same lengths, with marks in the place of what they say;
where these are found is where the next file has its own.
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
_WORD_BYTES = 8
_SHORTEST_TEXT = 12
"""Bytes that a mark needs, so that nothing else in a file is the same."""
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


class _Frame(NamedTuple):
    """A file with marks in the place of what its attributes say, which is not longer or shorter than they are."""

    image: bytes
    offsets: tuple[int, ...]
    """Where the mark of each attribute begins."""


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
        is_kept = num_bytes <= _MOST_KEPT_BYTES
        skeleton = (_kept_skeleton if is_kept else _skeleton)(structure)
        framed = _framed(skeleton, structure, groups) if is_kept else None
        image = bytearray(_with_attributes(skeleton.image, groups)) if framed is None else framed
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


def _framed(skeleton: _Skeleton, structure: tuple[_GroupKind, ...], groups: Sequence[Group]) -> bytearray | None:
    """Return what `_with_attributes` does, without HDF5; None for what cannot be told from the rest of a file."""
    contents = [_content_of(value) for group in groups for value in group.attributes.values()]
    if None in contents:
        return None
    said = [content for content in contents if content is not None]
    frame = _kept_frame(skeleton.image, structure, tuple(map(len, said)))
    if frame is None:
        return None
    image = bytearray(frame.image)
    for content, offset in zip(said, frame.offsets, strict=True):
        image[offset : offset + len(content)] = content
    return image


def _content_of(value: Any) -> bytes | None:
    """Return an attribute's bytes in the file; None for what is too short for a mark, or is for HDF5 to refuse."""
    if isinstance(value, str):
        try:
            text = value.encode()
        except UnicodeEncodeError:
            return None
        return text if len(text) >= _SHORTEST_TEXT and b"\0" not in text else None
    array = np.asarray(value)
    return array.tobytes() if array.size and array.dtype.kind in "fiu" and array.itemsize == _WORD_BYTES else None


@lru_cache(32)
def _kept_frame(skeleton: bytes, structure: tuple[_GroupKind, ...], lengths: tuple[int, ...]) -> _Frame | None:
    """Return a file of this structure whose attributes have contents of these lengths; None where marks are lost."""
    rest = iter(lengths)
    marks: list[bytes] = []
    marked = []
    for kind in structure:
        attributes: dict[str, Any] = {}
        for name, (dtype, shape, _) in kind.attributes:
            mark = _mark(len(marks), next(rest), is_text=dtype == _TEXT)
            attributes[name] = mark.decode() if dtype == _TEXT else np.frombuffer(mark, dtype).reshape(shape)
            marks.append(mark)
        marked.append(Group(kind.name, {}, attributes))
    image = _with_attributes(skeleton, marked)
    if any(image.count(mark) != 1 for mark in marks):
        return None
    return _Frame(image, tuple(image.index(mark) for mark in marks))


def _mark(number: int, length: int, *, is_text: bool) -> bytes:
    """Return so many bytes that are in no file, others for every number."""
    if is_text:
        return f"\x02{number:08d}".encode().ljust(length, b"\x03")
    # as a float64 it is finite
    words = range(length // _WORD_BYTES)
    return b"".join(b"\xf7\x02" + number.to_bytes(2, "big") + word.to_bytes(2, "big") + b"\x03\xf7" for word in words)


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
