"""Checksums inside our files: near its beginning a file says `ppfl result sha256 <64 digits>`, its kind and SHA-256.

The SHA-256 is that of the whole file with "0" for each of these digits, and without what `_neutral` leaves out. It is
found and compared without parsing the file, so that nothing that is damaged gets to HDF5. Kinds are "ppfl result",
"ppfl collection", "ppfl parameters". Files of version 3 of the results have none.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from ppfl.core.errors import UserError
from ppfl.core.files import open_plain, whole_file

if TYPE_CHECKING:
    from pathlib import Path

CHECKSUM = "checksum"
"""Name of the attribute, or of the entry of a header, that holds it."""
HEAD_BYTES = 4096
"""It ends within so many bytes from the beginning of a file."""
_DIGITS = b"0" * 64
# any 64 bytes, not only digits: a damaged digit must read as a wrong checksum, not as a file that has none
_SEAL = re.compile(rb"(ppfl (?:result|collection|parameters)) sha256 (.{64})", re.DOTALL)
_PIECE_BYTES = 2**20
_HDF5_WITH_FLAGS, _FLAGS = b"\x89HDF\r\n\x1a\n\0", slice(20, 24)
"""Beginning of a file with a superblock of version 0, and where the flags are in it."""


class DamagedError(UserError):
    """A file is not as it was written: what it holds must not be used."""


@dataclass(frozen=True)
class Seal:
    """What a file says of itself."""

    kind: str
    digits: bytes
    offset: int
    """Where the digits begin."""


def blank(kind: str) -> str:
    """Return what a file of a kind holds until it is sealed."""
    return f"{kind} sha256 {_DIGITS.decode()}"


def seal_in(head: bytes | bytearray) -> Seal | None:
    """Return the seal in the beginning of a file."""
    found = _SEAL.search(head[:HEAD_BYTES])
    return Seal(found[1].decode(), bytes(found[2]), found.start(2)) if found else None


def seal_of(path: Path) -> Seal | None:
    """Return the seal of a file. Raises OSError when that cannot be read."""
    with open_plain(path) as file:
        return seal_in(file.read(HEAD_BYTES))


def sealed(content: bytes | bytearray) -> bytes:
    """Return the content of a file with its checksum filled in."""
    seal = seal_in(content[:HEAD_BYTES])
    assert seal is not None
    view = memoryview(content)  # it may be large: copied once
    return b"".join((view[: seal.offset], _digits(view, seal), view[seal.offset + len(_DIGITS) :]))


def matches(content: bytes, seal: Seal) -> bool:
    """Say whether a file is as it was written."""
    return _digits(memoryview(content), seal) == seal.digits


def digits_of(file: BinaryIO, seal: Seal) -> bytes:
    """Return what the digits of a file must be; it is read from its beginning, in pieces."""
    file.seek(0)
    # in pieces: a collection may be larger than memory
    found = hashlib.sha256(_neutral(file.read(HEAD_BYTES), seal))
    while piece := file.read(_PIECE_BYTES):
        found.update(piece)
    return found.hexdigest().encode()


def _digits(content: memoryview, seal: Seal) -> bytes:
    found = hashlib.sha256(_neutral(bytes(content[:HEAD_BYTES]), seal))
    found.update(content[HEAD_BYTES:])
    return found.hexdigest().encode()


def _neutral(head: bytes, seal: Seal) -> bytes:
    """Return the beginning of a file as it is hashed: without the digits, and without the flags of HDF5.

    Those say that a program has the file open for writing. They stay for ever when it is killed, also where it has
    written nothing: a notebook, say.
    """
    neutral = bytearray(head)
    neutral[seal.offset : seal.offset + len(_DIGITS)] = _DIGITS
    if head.startswith(_HDF5_WITH_FLAGS):
        neutral[_FLAGS] = bytes(len(range(*_FLAGS.indices(len(head)))))
    return bytes(neutral)


def fill(path: Path) -> None:
    """Fill the checksum of a file in, where it lies: for one that has not got its name yet."""
    with path.open("r+b") as file:
        seal = seal_in(file.read(HEAD_BYTES))
        assert seal is not None
        digits = digits_of(file, seal)
        file.seek(seal.offset)
        file.write(digits)


def seal_anew(path: Path) -> None:
    """Give a file that was changed on purpose the checksum of what it holds now.

    Raises UserError for a file that has no checksum.
    """
    content = path.read_bytes()
    if seal_in(content) is None:
        raise UserError(f"{path}: has no checksum; results, collections and parameters since version 4 have one")
    with whole_file(path) as file:
        file.write(sealed(content))


def damaged(path: Path) -> DamagedError:
    """Return the error of a file that is not as it was written."""
    return DamagedError(f"{path}: its checksum does not match: it is damaged, or was changed after it was written")
