"""HDF5 files that a configuration names: whatever is read lies in the file itself, and whatever is wrong is one line.

Data count by their content, which is the hash of one file. HDF5 can point out of it in three ways, external links,
virtual data sets and external storage; all are refused. Every reader of data goes through `open_data`.
Of texts of variable length HDF5 says only where they lie (`heap_texts`).
"""

from __future__ import annotations

import math
import os
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from ppfl.core.errors import UserError
from ppfl.core.files import open_plain
from ppfl.interfaces.heap_texts import DESCRIPTOR, FileBytes, has_fill_value

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MAX_LINKS = 16
"""Soft links that may lead to one another; beyond they are taken for a circle."""
_MAX_RATIO = 1100
"""Bytes that one stored byte may become; deflate reaches 1032."""
_SPARE_BYTES = 1 << 20
"""Bytes that an array may have beyond that, such as one that is all fill value."""
_ADDRESS_BYTES = (8, 8)
"""Of addresses and sizes in a file; HDF5 knows others, which nobody writes unasked."""
_WHOLE = "data count by the content of one file, so all of it must be in that file"
# what h5py raises for files that are damaged, by the function that meets it first
_DAMAGE = (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, OverflowError, MemoryError)


@contextmanager
def open_data(path: Path, where: str) -> Iterator[DataGroup]:
    """Open a file and yield its root. Raises UserError, which begins with `where`, for what is no HDF5 file."""
    with ExitStack() as stack:
        try:
            plain = stack.enter_context(open_plain(path))
            try:  # data are read, never changed: a lock would keep nobody from anything
                file = h5py.File(path, "r", locking=False)
            except OSError:  # whoever has it open in this very process may have it with locks
                file = h5py.File(path, "r")
        except _DAMAGE as error:
            raise UserError(f"{where} cannot be read as HDF5: {error}") from error
        try:
            with _told(where):
                root = h5py.h5g.open(file.id, b"/")
                base = file.id.get_create_plist().get_userblock()
            yield DataGroup(root, FileBytes(plain.fileno(), base, os.fstat(plain.fileno()).st_size - base), where)
        finally:
            with _told(where):
                file.close()


@dataclass(frozen=True)
class DataGroup:
    """A group of a data file."""

    _id: h5py.h5g.GroupID
    _file: FileBytes
    where: str
    """How messages begin."""

    def names(self) -> tuple[str, ...]:
        """Return the names of what it holds, sorted, whatever the order of creation."""
        names: list[bytes] = []
        with _told(self.where):
            self._id.links.iterate(names.append)
        try:
            return tuple(sorted(name.decode() for name in names))
        except UnicodeDecodeError as error:
            raise UserError(f"{self.where}: the name {error.object!r} is no text in UTF-8") from error

    def group(self, name: str, where: str) -> DataGroup | None:
        """Return the group of that name, of which messages say `where`; None when there is none.

        Raises UserError for links that lead out of the file, to nothing or in a circle.
        """
        found = self._find(name, where)
        return DataGroup(found, self._file, where) if isinstance(found, h5py.h5g.GroupID) else None

    def array(self, name: str, where: str) -> DataArray | None:
        """Return the array of that name; as `group`, and UserError too for numbers that are not in this file."""
        found = self._find(name, where)
        if not isinstance(found, h5py.h5d.DatasetID):
            return None
        with _told(where):
            return DataArray.of(found, self._file, where)

    def read_at(self, place: int, shape: tuple[int, ...], dtype: np.dtype, where: str) -> np.ndarray:
        """Return the first entries of an array whose `place` is known, which is not opened again. Raises UserError."""
        with _told(where):
            return self._file.numbers(place, shape, dtype)

    def _find(self, name: str, where: str) -> h5py.h5i.ObjectID | None:
        with _told(where):
            if not self._id.links.exists(name.encode()):
                return None
            return _open(self._id, name.encode(), where, _MAX_LINKS)


@dataclass(frozen=True)
class DataArray:
    """An array of a data file, whose layout is known and whose numbers have not been read."""

    _id: h5py.h5d.DatasetID
    _file: FileBytes
    shape: tuple[int, ...]
    dtype: np.dtype
    """Of what `read` returns: in the byte order of this machine; long double, which no run computes in, is float64."""
    where: str
    """How messages begin."""
    place: int | None = None
    """Address of its first byte, where entries lie in the file side by side and as `read` returns them."""

    @classmethod
    def of(cls, found: h5py.h5d.DatasetID, file: FileBytes, where: str) -> DataArray:
        """Look at the layout. Raises UserError for numbers that are not in the file, or more than can be in it."""
        kept, space = found.dtype, found.get_space()
        # before HDF5 is asked for its layout: with that it gives the fill value, after a look into the heap
        if kept.hasobject and h5py.check_string_dtype(kept) is None:
            raise UserError(f"{where}: holds entries of variable length; allowed are numbers and texts")
        if kept.hasobject and has_fill_value(file, h5py.h5o.get_info(found).addr):
            raise UserError(f"{where}: has a fill value, which texts of variable length must not; write it without one")
        shape = space.get_simple_extent_dims() or ()  # of an array without a shape there are none
        num_bytes = math.prod(shape) * kept.itemsize
        if (place := _place(found, kept, num_bytes, file)) is not None:
            return cls(found, file, shape, kept, where, place)
        stored = found.get_create_plist()
        # HDF5 would follow both silently, wherever they lead, and the digest knows nothing of what is there
        if stored.get_layout() == h5py.h5d.VIRTUAL or stored.get_external_count():
            raise UserError(f"{where}: its numbers lie in other files; {_WHOLE}")
        if space.get_simple_extent_type() == h5py.h5s.NULL:
            raise UserError(f"{where}: is an array without a shape")
        # a few bytes can declare petabytes: before memory is taken, they are compared with what the file could hold
        if num_bytes > _most(min(found.get_storage_size(), file.num_bytes)):
            raise UserError(
                f"{where}: declares {' × '.join(map(str, shape))} entries, {num_bytes:,} bytes, far more than the file "
                f"holds of it; is it damaged?"
            )
        return cls(found, file, shape, _native(kept), where)

    def read(self) -> np.ndarray:
        """Return all entries. Raises UserError for damage, texts of variable length, and what memory does not hold."""
        if self.place is not None and self.shape:
            return self.read_rows(0, self.shape[0])
        return self._read(h5py.h5s.ALL, h5py.h5s.ALL, self.shape)

    def read_rows(self, first: int, last: int) -> np.ndarray:
        """Return the entries `first` to `last` − 1 along the first axis. Raises UserError as `read` does."""
        with _told(self.where):
            shape = (last - first, *self.shape[1:])
            if self.place is not None:
                row_bytes = math.prod(shape[1:]) * self.dtype.itemsize
                return self._file.numbers(self.place + first * row_bytes, shape, self.dtype)
            if not math.prod(shape):  # HDF5 selects no rows of an array without any
                return np.empty(shape, self.dtype)
            chosen = self._id.get_space()
            chosen.select_hyperslab((first, *(0 for _ in shape[1:])), shape)
            return self._read(h5py.h5s.create_simple(shape), chosen, shape)

    def read_texts(self, most: int | None = None) -> list[str]:
        """Return the entries of an array (R,) of texts, or the first of them.

        Raises UserError for other entries, and as `read` does.
        """
        if h5py.check_string_dtype(self._id.dtype) is None or len(self.shape) != 1:
            raise UserError(f"{self.where}: is {self.dtype} of shape {self.shape}; it must hold one text an entry")
        with _told(self.where):
            last = self.shape[0] if most is None else min(most, self.shape[0])
            is_variable = self.dtype.hasobject
            stored = self._file.texts(self._descriptors()[:last]) if is_variable else self.read_rows(0, last).tolist()
        try:
            return [text.decode() for text in stored]
        except UnicodeDecodeError as error:
            raise UserError(f"{self.where}: the entry {error.object!r} is no text in UTF-8") from error

    def _read(self, here: Any, there: Any, shape: tuple[int, ...]) -> np.ndarray:
        if self.dtype.hasobject:
            raise UserError(f"{self.where}: holds texts; numbers are wanted")
        with _told(self.where):
            values = np.empty(shape, self._id.dtype)
            self._id.read(here, there, values)
            return values.astype(self.dtype, copy=False)

    def _descriptors(self) -> np.ndarray:
        """Return where the texts lie, as stored (R,): HDF5 itself would go there. Raises ValueError for damage."""
        if h5py.h5i.get_file_id(self._id).get_create_plist().get_sizes() != _ADDRESS_BYTES:
            raise ValueError("its addresses are not of 8 bytes")
        layout = self._id.get_create_plist().get_layout()
        if not self._id.get_storage_size():  # nothing was written
            return np.zeros(self.shape, DESCRIPTOR)
        if layout == h5py.h5d.CHUNKED:
            content = _unfiltered(self._id, self.shape[0] * DESCRIPTOR.itemsize, self._file.num_bytes)
        elif layout == h5py.h5d.CONTIGUOUS and (offset := self._id.get_offset()) is not None:
            content = self._file.read(offset - self._file.base, self.shape[0] * DESCRIPTOR.itemsize)
        else:
            raise ValueError("texts of variable length must be stored contiguously or in chunks")
        return np.frombuffer(content, DESCRIPTOR)


def _place(found: h5py.h5d.DatasetID, kept: np.dtype, num_bytes: int, file: FileBytes) -> int | None:
    """Return where the entries begin, if they lie in the file side by side and are numbers of this machine."""
    if kept.kind not in "iuf" or kept != _native(kept) or not 0 < num_bytes <= file.num_bytes:
        return None
    offset = found.get_offset()
    # for external storage HDF5 says what is undefined, and with a block of the user's before the file adds its length
    if offset is None or offset < file.base or found.get_storage_size() != num_bytes:
        return None
    # of numbers with fewer bits than bytes have NumPy's type does not tell
    is_plain = found.get_type().equal(h5py.h5t.py_create(kept))
    return offset - file.base if is_plain else None


def _most(stored_bytes: int) -> int:
    """Return how many bytes may become of stored ones."""
    return _SPARE_BYTES + _MAX_RATIO * stored_bytes


def _unfiltered(found: h5py.h5d.DatasetID, num_bytes: int, file_bytes: int) -> bytes:
    """Return all bytes of a chunked array (R,), decompressed: its chunks are put into an array of bytes in memory."""
    stored = found.get_create_plist()
    filters = [stored.get_filter(number) for number in range(stored.get_nfilters())]
    # shuffling depends on the size of entries; where it has no note of it, it was left out
    width = next((values[0] for code, _, values, _ in filters if code == h5py.h5z.FILTER_SHUFFLE and any(values)), 1)
    rows = stored.get_chunk()[0]
    if DESCRIPTOR.itemsize % width or rows * DESCRIPTOR.itemsize > _most(file_bytes):
        raise ValueError(f"its chunks of {rows:,} entries cannot be in this file")
    per_row = DESCRIPTOR.itemsize // width
    as_bytes = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    as_bytes.set_chunk((rows * per_row,))
    for code, flags, values, _ in filters:
        as_bytes.set_filter(code, flags, values)
    in_memory = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    in_memory.set_fapl_core(1 << 16, False)
    # with all in it: what a damaged chunk raises holds `copy`, and a file of this name cannot be made while one is open
    in_memory.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    file = h5py.h5f.create(b"of descriptors", h5py.h5f.ACC_TRUNC, fapl=in_memory)
    try:
        kind = h5py.h5t.py_create(np.dtype(f"V{width}"))
        # without a limit, for a chunk may be longer than the array
        space = h5py.h5s.create_simple((num_bytes // width,), (h5py.h5s.UNLIMITED,))
        copy = h5py.h5d.create(file, b"bytes", kind, space, as_bytes)
        for first in range(0, num_bytes // DESCRIPTOR.itemsize, rows):
            chunk = found.get_chunk_info_by_coord((first,))
            if chunk.byte_offset is None:  # never written: zeros, as `copy` has there
                continue
            if chunk.size > file_bytes:
                raise ValueError(f"a chunk of {chunk.size:,} bytes cannot be in this file")
            mask, content = found.read_direct_chunk((first,))
            copy.write_direct_chunk((first * per_row,), content, mask)
        values = np.empty(num_bytes // width, f"V{width}")
        copy.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
        return values.tobytes()
    finally:
        file.close()


def _native(dtype: np.dtype) -> np.dtype:
    if dtype.kind == "f" and dtype.itemsize > 8:
        return np.dtype(np.float64)
    # without the metadata of h5py, which knows enumerations and references by them
    return np.dtype(dtype.str).newbyteorder("=") if dtype.kind in "biufc" else dtype


def _follow(location: h5py.h5g.GroupID, name: bytes, where: str, links_left: int) -> h5py.h5i.ObjectID:
    """Open what a part of a link stands for."""
    if not location.links.exists(name):
        raise UserError(f"{where}: is a link to nothing")
    return _open(location, name, where, links_left)


def _open(location: h5py.h5g.GroupID, name: bytes, where: str, links_left: int) -> h5py.h5i.ObjectID:
    """Open what a name that a group has stands for, one link at a time."""
    kind = location.links.get_info(name).type
    if kind == h5py.h5l.TYPE_HARD:
        return h5py.h5o.open(location, name)
    if kind != h5py.h5l.TYPE_SOFT:
        raise UserError(f"{where}: is a link into another file; {_WHOLE}")
    if not links_left:
        raise UserError(f"{where}: is a link that leads in a circle")
    # by hand, part by part: opened as a whole, HDF5 would follow external links in the middle of the path
    target = location.links.get_val(name)
    found = h5py.h5g.open(location, b"/") if target.startswith(b"/") else location
    for part in target.split(b"/"):
        if part in (b"", b"."):
            continue
        if not isinstance(found, h5py.h5g.GroupID):
            raise UserError(f"{where}: is a link to nothing")
        found = _follow(found, part, where, links_left - 1)
    return found


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Turn whatever h5py raises for a damaged file into an error of the user's."""
    try:
        yield
    except _DAMAGE as error:
        what = "does not fit into memory" if isinstance(error, MemoryError) else "cannot be read"
        raise UserError(f"{where}: {what}: {error or type(error).__name__}") from error
