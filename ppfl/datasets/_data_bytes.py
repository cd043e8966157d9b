"""Files of bytes and of text lines, compressed by gzip or not, read within bounds; what is wrong is one line."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np

from ppfl.core.errors import UserError
from ppfl.core.files import open_plain
from ppfl.core.host_memory import free_host_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_GZIP = b"\x1f\x8b"
_MAX_RATIO = 1100
"""Bytes that one stored byte may become; deflate reaches 1032."""
_SPARE_BYTES = 1 << 20
_USABLE = 0.5
"""Part of the free memory that a file may take."""
_MAX_LINE_BYTES = 1 << 26
_OF_A_CHARACTER = 4
"""Bytes in memory that a character of a text table becomes: "1:1 " is 16 of them."""
_BLOCK_BYTES = 1 << 22


@contextmanager
def open_bytes(path: Path, where: str) -> Iterator[DataBytes]:
    """Open a file until the block ends. Raises UserError, which begins with `where`, for whatever cannot be read."""
    with told(where), open_plain(path) as plain:
        stored = os.fstat(plain.fileno()).st_size
        is_compressed = plain.peek(len(_GZIP))[: len(_GZIP)] == _GZIP
        stream = cast("BinaryIO", gzip.GzipFile(fileobj=plain) if is_compressed else plain)
        yield DataBytes(stream, most_bytes(stored) if is_compressed else stored, where)


class DataBytes:
    """The bytes of a file, decompressed."""

    def __init__(self, stream: BinaryIO, most: int, where: str) -> None:
        self._stream = stream
        self._most = most
        """Bytes that can be in it."""
        self.where = where
        """How messages begin."""

    def read(self, num_bytes: int) -> bytes:
        """Return the next bytes. Raises UserError where there are fewer, or can only be."""
        refuse_size(num_bytes, self._most, self.where)
        blocks, left = [], num_bytes
        while left:
            block = self._stream.read(min(left, _BLOCK_BYTES))
            if not block:
                raise UserError(
                    f"{self.where}: ends {left:,} bytes too early, of {num_bytes:,} that it should have here; is it "
                    f"truncated?"
                )
            blocks.append(block)
            left -= len(block)
        return b"".join(blocks)

    def array(self, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
        """Return the next numbers, in the byte order of this machine. Raises UserError as `read` does."""
        content = self.read(math.prod(shape) * dtype.itemsize)
        return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="))

    def rest(self) -> bytes:
        """Return all that follows. Raises UserError for more than memory holds."""
        blocks, number = [], 0
        while block := self._stream.read(_BLOCK_BYTES):
            number += len(block)
            refuse_size(number, self._most, self.where)
            blocks.append(block)
        return b"".join(blocks)

    def end(self) -> None:
        """Raise UserError unless this is the end; with it the checksum of a compressed file has been compared."""
        if self._stream.read(1):
            raise UserError(f"{self.where}: goes on after its last entry; is it of another kind?")

    def lines(self) -> Iterator[bytes]:
        """Yield its lines, with what ends them. Raises UserError for a line, or a text, that memory does not hold."""
        usable, number = _USABLE * free_host_bytes() / _OF_A_CHARACTER, 0
        while line := self._stream.readline(_MAX_LINE_BYTES + 1):
            number += len(line)
            if len(line) > _MAX_LINE_BYTES:
                raise UserError(f"{self.where}: a line has more than {_MAX_LINE_BYTES:,} bytes; is it a text?")
            if number > usable:
                raise UserError(f"{self.where}: has more text than the free memory holds, {number:,} bytes so far")
            yield line

    def texts(self) -> Iterator[str]:
        """Yield its lines as texts. Raises UserError for what is no UTF-8, and as `lines` does."""
        lines = self.lines()
        first = next(lines, b"").removeprefix(b"\xef\xbb\xbf")  # with which some programs begin UTF-8
        for number, line in enumerate(chain([first], lines), start=1):
            try:
                yield line.decode()
            except UnicodeDecodeError as error:
                raise UserError(f"{self.where}, line {number}: is no text in UTF-8") from error


def most_bytes(stored: int) -> int:
    """Return how many bytes may become of stored ones."""
    return _SPARE_BYTES + _MAX_RATIO * stored


def refuse_size(num_bytes: int, most: float, where: str) -> None:
    """Raise UserError for more bytes than can be in a file, or than the free memory holds: before they are taken."""
    if num_bytes > most:
        raise UserError(f"{where}: should have {num_bytes:,} bytes here, more than the file can hold; is it truncated?")
    if num_bytes > (usable := _USABLE * free_host_bytes()):
        raise UserError(f"{where}: needs {num_bytes:,} bytes; {usable:,.0f} of the free memory may be used for it")


@contextmanager
def told(where: str) -> Iterator[None]:
    """Turn what the system and the decompressor say into an error of the user's."""
    try:
        yield
    except (OSError, EOFError, zlib.error, MemoryError) as error:
        raise UserError(f"{where}: cannot be read: {error or type(error).__name__}") from error
