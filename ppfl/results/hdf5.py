"""The one way to open results and collections for reading: without locks, and not before their checksum matches.

They are replaced as a whole, never changed in place, so a lock would keep nobody from anything, while one that another
program holds (a notebook that has the file open) would keep us from reading.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, nullcontext
from mmap import ACCESS_READ, mmap
from typing import TYPE_CHECKING, Any

import h5py

from ppfl.core.errors import UserError
from ppfl.core.files import open_plain
from ppfl.core.results_version import RESULTS_VERSION
from ppfl.interfaces.heap_texts import check_heaps
from ppfl.results.seal import CHECKSUM, HEAD_BYTES, DamagedError, Seal, damaged, digits_of, matches, seal_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_IN_MEMORY_BYTES = 2**26
"""Files up to this size are read once, and opened from memory."""
_FIRST_SEALED = 4
"""The first version of the results whose files have checksums."""
UNREADABLE = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, IndexError, OverflowError)
"""What HDF5 and those who read a file without a checksum raise when it is damaged."""


class NotHDF5Error(UserError):
    """A file is something else."""


@contextmanager
def opened(path: Path) -> Iterator[tuple[h5py.h5f.FileID, bool]]:
    """Give an open file, and whether it has a checksum.

    Raises OSError with what the system says, NotHDF5Error, and DamagedError for what does not match its checksum, or
    has none and makes HDF5 fail.
    """
    with open_plain(path) as plain:
        head = plain.read(HEAD_BYTES)
        seal = seal_in(head)
        is_small = os.fstat(plain.fileno()).st_size <= _IN_MEMORY_BYTES
        # read once for the checksum and for HDF5, so that both see the same bytes, whatever happens to the file
        # meanwhile
        content = head + plain.read() if is_small else b""
        if seal is not None and not (matches(content, seal) if is_small else digits_of(plain, seal) == seal.digits):
            raise damaged(path)
        _check_signature(path, head, seal)
        if seal is None:
            with nullcontext(content) if is_small else mmap(plain.fileno(), 0, access=ACCESS_READ) as whole:
                _check_heaps(path, whole)
    try:
        file = h5py.h5f.open_file_image(content) if is_small else _open_unlocked(path)
        try:
            yield file, seal is not None
        finally:
            file.close()
    except UNREADABLE as error:
        raise DamagedError(f"{path}: cannot be read as HDF5 ({' '.join(str(error).split())})") from error


def read_image(path: Path) -> tuple[bytes, bool]:
    """Return all bytes of a file, and whether it has a checksum; errors as of `opened`."""
    with open_plain(path) as plain:
        content = plain.read()
    seal = seal_in(content)
    if seal is not None and not matches(content, seal):
        raise damaged(path)
    _check_signature(path, content, seal)
    if seal is None:
        _check_heaps(path, content)
    return content, seal is not None


def _check_signature(path: Path, head: bytes, seal: Seal | None) -> None:
    if seal is None and not head.startswith(_SIGNATURE):
        raise NotHDF5Error(f"{path}: cannot be read as HDF5 (it is something else)")


def _check_heaps(path: Path, content: bytes | mmap) -> None:
    """Refuse what no checksum tells and HDF5 would not come back from."""
    try:
        check_heaps(content)
    except ValueError as error:
        raise DamagedError(f"{path}: cannot be read as HDF5 ({error})") from error


def open_unlocked(path: Path) -> h5py.File:
    """Open a file whose checksum was compared before."""
    return h5py.File(_open_unlocked(path))


def check_attributes(path: Path, attributes: Mapping[str, Any], has_seal: bool) -> None:
    """Refuse what a newer ppfl has written, and files that had a checksum once. Raises UserError."""
    version = attributes.get("results_version", 0)
    # a damaged seal is not found by its pattern: then the attributes tell that there was one
    if not has_seal and (CHECKSUM in attributes or version >= _FIRST_SEALED):
        raise damaged(path)
    refuse_newer(path, version)


def refuse_newer(path: Path, version: int) -> None:
    """Refuse results of rules that this version does not know. Raises UserError."""
    if version > RESULTS_VERSION:
        raise UserError(
            f"{path}: was written by a newer ppfl (results_version {version}, this one reads up to "
            f"{RESULTS_VERSION}); update ppfl"
        )


def _open_unlocked(path: Path) -> h5py.h5f.FileID:
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    # the second: do so also where file locks are not supported
    access.set_file_locking(False, True)
    return h5py.h5f.open(os.fsencode(path), h5py.h5f.ACC_RDONLY, fapl=access)
