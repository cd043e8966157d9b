"""Texts of variable length, taken out of HDF5's global heap by hand and within bounds.

HDF5 goes in circles there for one wrong byte: it skips an object without an index by the size that the object says,
also when that is 0 (2.0 and before). Nor may it be asked for a fill value of such a type, which lies there too.
Source of the layout: HDF5 File Format Specification Version 3.0, III.E, IV.A.1 and IV.A.2.
"""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator
    from mmap import mmap

DESCRIPTOR = np.dtype([("num_bytes", "<u4"), ("collection", "<u8"), ("object", "<u4")])
"""What an array has of each text: its bytes, and the collection and the object in it where they lie."""
_TEXTS_AT_ONCE = 4096
"""Texts whose pieces of the heap are in memory together."""
_MIN_COLLECTION_BYTES = 4096
_HEAD = re.compile(rb"GCOL\x01\x00{3}(.{8})", re.DOTALL)
"""How a collection begins, with its bytes; an object has as many before what it holds."""
_OBJECT = struct.Struct("<HHIQ")
"""Index, references, nothing, bytes."""
_OLD_FILL_VALUE, _FILL_VALUE, _CONTINUATION = 0x04, 0x05, 0x10
_IS_SHARED = 0x02


@dataclass(frozen=True)
class FileBytes:
    """The bytes of an open file, by the addresses that HDF5 uses in it."""

    file: int
    """Its descriptor, as the operating system knows it."""
    base: int
    """Where address 0 is: before it lies what is no concern of HDF5."""
    num_bytes: int
    """From there to the end."""

    def read(self, address: int, num_bytes: int) -> bytes:
        """Return bytes. Raises ValueError where the file ends before."""
        found = b""
        if num_bytes <= self.num_bytes - address:
            found = os.pread(self.file, num_bytes, self.base + address)
        if len(found) < num_bytes:
            raise ValueError(f"{num_bytes:,} bytes are said to lie at byte {address:,}, where the file ends before")
        return found

    def numbers(self, address: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return an array that lies there as it is. Raises ValueError where the file ends before."""
        found = np.empty(shape, dtype)
        if found.nbytes > self.num_bytes - address:
            raise ValueError(f"{found.nbytes:,} bytes are said to lie at byte {address:,}, where the file ends before")
        left, at = found.data.cast("B") if found.size else memoryview(b""), self.base + address
        while left:  # one call reads 2 GiB at most
            if not (num_read := os.preadv(self.file, [left], at)):
                raise ValueError(f"the file ends at byte {at:,}, before its numbers do")
            left, at = left[num_read:], at + num_read
        return found

    def texts(self, descriptors: np.ndarray) -> list[bytes]:
        """Return the texts (R,) of descriptors, up to a NUL, as HDF5 ends them. Raises ValueError for damage."""
        found, num_bytes = [], 0
        for first in range(0, len(descriptors), _TEXTS_AT_ONCE):
            collections: dict[int, _Collection] = {}
            num_read = 0
            for length, address, index in descriptors[first : first + _TEXTS_AT_ONCE].tolist():
                if not address:  # never written
                    found.append(b"")
                    continue
                if address not in collections:
                    collections[address] = _collection(self, address)
                    num_read += len(collections[address].content)
                num_bytes += length
                # neither overlaps: a few bytes could stand for any number of texts otherwise
                if max(num_read, num_bytes) > self.num_bytes:
                    raise ValueError("its texts are together longer than the file")
                found.append(collections[address].text(index, length))
        return found


@dataclass(frozen=True)
class _Collection:
    """A piece of the heap."""

    address: int
    content: bytes
    objects: dict[int, tuple[int, int]]
    """Of each object, where it begins in the content, and where it ends."""

    def text(self, index: int, num_bytes: int) -> bytes:
        first, last = self.objects.get(index, (0, -1))
        if last - first != num_bytes:
            raise ValueError(f"the heap at byte {self.address:,} has no text {index} of {num_bytes:,} bytes")
        return self.content[first:last].partition(b"\0")[0]


def _collection(file: FileBytes, address: int) -> _Collection:
    """Read a collection. Raises ValueError for one that is damaged anywhere."""
    head = file.read(address, 16)
    num_bytes = int.from_bytes(head[8:], "little")
    if head[:5] != b"GCOL\1" or num_bytes < _MIN_COLLECTION_BYTES:
        raise ValueError(f"there is no heap at byte {address:,}")
    content = file.read(address, num_bytes)
    try:
        return _Collection(address, content, _objects(content))
    except ValueError as error:
        raise ValueError(f"the heap at byte {address:,} is damaged") from error


def check_heaps(content: bytes | mmap) -> None:
    """Look at every piece of the heap in a file. Raises ValueError where HDF5 may go in circles."""
    for found in _HEAD.finditer(content):
        _objects(content[found.start() : found.start() + int.from_bytes(found[1], "little")])


def _objects(content: bytes) -> dict[int, tuple[int, int]]:
    """Return where each object of a collection is, by its index. Raises ValueError for damage."""
    objects: dict[int, tuple[int, int]] = {}
    num_bytes, place = len(content), _OBJECT.size
    while num_bytes - place >= _OBJECT.size:
        index, _, _, length = _OBJECT.unpack_from(content, place)
        # what is free counts its own head, an object does not, and is filled up to a multiple of 8
        step = _OBJECT.size + (length + 7) // 8 * 8 if index else length
        if not _OBJECT.size <= step <= num_bytes - place or index in objects:
            raise ValueError(f"an object of the heap is damaged: {index}, of {length:,} bytes")
        if index:
            objects[index] = (place + _OBJECT.size, place + _OBJECT.size + length)
        place += step
    return objects


def has_fill_value(file: FileBytes, address: int) -> bool:
    """Say whether the array with its header at an address has its own. Raises ValueError where nobody can tell."""
    for kind, flags, message in _messages(file, address):
        if kind not in (_OLD_FILL_VALUE, _FILL_VALUE):
            continue
        version = message[0] if kind == _FILL_VALUE and message else 0
        # of version 3, a flag says whether a size follows at all; before, a size that may be 0 stands behind
        at = {0: 0, 1: 4, 2: 4, 3: None}.get(version, -1)
        if at == -1 or flags & _IS_SHARED:
            raise ValueError("its fill value cannot be read")
        if message[1] & 0x20 if at is None else any(message[at : at + 4]):
            return True
    return False


def _messages(file: FileBytes, address: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield kind, flags and content of the messages of an object header."""
    head = file.read(address, min(64, file.num_bytes - address))
    is_new = head.startswith(b"OHDR")
    if is_new:
        flags = head[5]
        # where times and limits of attributes are told, they stand before the size
        at = 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        message = struct.Struct("<BHBH" if flags & 0x04 else "<BHB")
        blocks = [(address + at + width, int.from_bytes(head[at : at + width], "little"))]
    else:
        message = struct.Struct("<HHB3x")
        blocks = [(address + 16, int.from_bytes(head[8:12], "little"))]
    num_bytes = 0
    for start, length in blocks:  # which grow meanwhile
        num_bytes += length
        if num_bytes > file.num_bytes:
            raise ValueError("its header is longer than the file")
        block, place = file.read(start, length), 0
        if is_new and start != blocks[0][0]:
            block, place = block[:-4], 4  # between a signature and a checksum
        while len(block) - place >= message.size:
            kind, size, flags, *_ = message.unpack_from(block, place)
            place += message.size
            content = block[place : place + size]
            if kind == _CONTINUATION:
                blocks.append((int.from_bytes(content[:8], "little"), int.from_bytes(content[8:16], "little")))
            yield kind, flags, content
            place += size
