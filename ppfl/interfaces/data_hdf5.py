"""HDF5 files that a configuration names: whatever is read lies in the file itself, and whatever is wrong is one line.

Data count by their content, which is the hash of one file. HDF5 can point out of it in three ways, external links,
virtual data sets and external storage; all are refused. Every reader of data goes through `open_data`.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import h5py
import numpy as np

from ppfl.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MAX_LINKS = 16
"""Soft links that may lead to one another; beyond they are taken for a circle."""
_MAX_RATIO = 1100
"""Bytes that one stored byte may become; deflate reaches 1032."""
_SPARE_BYTES = 1 << 20
"""Bytes that an array may have beyond that, such as one that is all fill value."""
_TEXTS_AT_ONCE = 4096
"""Texts that are read at a time: those of variable length say how much memory they take only then."""
_WHOLE = "data count by the content of one file, so all of it must be in that file"
# what h5py raises for files that are damaged, by the function that meets it first
_DAMAGE = (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, OverflowError, MemoryError)


@contextmanager
def open_data(path: Path, where: str) -> Iterator[DataGroup]:
    """Open a file and yield its root. Raises UserError, which begins with `where`, for what is no HDF5 file."""
    try:
        try:  # data are read, never changed: a lock would keep nobody from anything
            file = h5py.File(path, "r", locking=False)
        except OSError:  # whoever has it open in this very process may have it with locks
            file = h5py.File(path, "r")
    except _DAMAGE as error:
        raise UserError(f"{where} cannot be read as HDF5: {error}") from error
    try:
        with _told(where):
            root = h5py.h5g.open(file.id, b"/")
        yield DataGroup(root, path.stat().st_size, where)
    finally:
        with _told(where):
            file.close()


@dataclass(frozen=True)
class DataGroup:
    """A group of a data file."""

    _id: h5py.h5g.GroupID
    _file_bytes: int
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
        return DataGroup(found, self._file_bytes, where) if isinstance(found, h5py.h5g.GroupID) else None

    def array(self, name: str, where: str) -> DataArray | None:
        """Return the array of that name; as `group`, and UserError too for numbers that are not in this file."""
        found = self._find(name, where)
        if not isinstance(found, h5py.h5d.DatasetID):
            return None
        with _told(where):
            return DataArray.of(found, self._file_bytes, where)

    def _find(self, name: str, where: str) -> h5py.h5i.ObjectID | None:
        with _told(where):
            if not self._id.links.exists(name.encode()):
                return None
            return _open(self._id, name.encode(), where, _MAX_LINKS)


@dataclass(frozen=True)
class DataArray:
    """An array of a data file, whose layout is known and whose numbers have not been read."""

    _id: h5py.h5d.DatasetID
    shape: tuple[int, ...]
    dtype: np.dtype
    """Of what `read` returns: in the byte order of this machine; long double, which no run computes in, is float64."""
    where: str
    """How messages begin."""

    @classmethod
    def of(cls, found: h5py.h5d.DatasetID, file_bytes: int, where: str) -> DataArray:
        """Look at the layout. Raises UserError for numbers that are not in the file, or more than can be in it."""
        stored = found.get_create_plist()
        # HDF5 would follow both silently, wherever they lead, and the digest knows nothing of what is there
        if stored.get_layout() == h5py.h5d.VIRTUAL or stored.get_external_count():
            raise UserError(f"{where}: its numbers lie in other files; {_WHOLE}")
        space = found.get_space()
        if space.get_simple_extent_type() == h5py.h5s.NULL:
            raise UserError(f"{where}: is an array without a shape")
        kept, shape = found.dtype, space.get_simple_extent_dims()
        num_bytes = math.prod(shape) * kept.itemsize
        # a few bytes can declare petabytes: before memory is taken, they are compared with what the file could hold
        if num_bytes > _SPARE_BYTES + _MAX_RATIO * min(found.get_storage_size(), file_bytes):
            raise UserError(
                f"{where}: declares {' × '.join(map(str, shape))} entries, {num_bytes:,} bytes, far more than the file "
                f"holds of it; is it damaged?"
            )
        return cls(found, shape, _native(kept), where)

    def read(self) -> np.ndarray:
        """Return all entries. Raises UserError for damage, and where they do not fit into memory."""
        with _told(self.where):
            values = np.empty(self.shape, self._id.dtype)
            self._id.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
            return values.astype(self.dtype, copy=False)

    def read_rows(self, first: int, last: int) -> np.ndarray:
        """Return the entries `first` to `last` − 1 along the first axis. Raises UserError as `read` does."""
        with _told(self.where):
            shape = (last - first, *self.shape[1:])
            values = np.empty(shape, self._id.dtype)
            if values.size:  # HDF5 selects no rows of an array without any
                chosen = self._id.get_space()
                chosen.select_hyperslab((first, *(0 for _ in shape[1:])), shape)
                self._id.read(h5py.h5s.create_simple(shape), chosen, values)
            return values.astype(self.dtype, copy=False)

    def read_texts(self) -> list[str]:
        """Return all entries of an array (R,) of texts. Raises UserError for other entries, and as `read` does."""
        if h5py.check_string_dtype(self._id.dtype) is None or len(self.shape) != 1:
            raise UserError(f"{self.where}: is {self.dtype} of shape {self.shape}; it must hold one text an entry")
        texts: list[str] = []
        for first in range(0, self.shape[0], _TEXTS_AT_ONCE):
            block = self.read_rows(first, min(first + _TEXTS_AT_ONCE, self.shape[0]))
            try:
                texts += [text.decode() for text in block.tolist()]
            except UnicodeDecodeError as error:
                raise UserError(f"{self.where}: the entry {error.object!r} is no text in UTF-8") from error
        return texts


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
