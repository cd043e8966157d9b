"""Members of archives become files: those that are wanted, each a plain one, and no more than an archive can hold.

An archive says itself how long its members are, in a few bytes; what comes out of it is counted, not believed.
"""

from __future__ import annotations

import bz2
import gzip
import io
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

from ppfl.core.errors import UserError
from ppfl.core.files import open_plain, whole_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ppfl.catalogue.told import Told

_MAX_RATIO = 1100
"""Bytes that a byte of an archive may become. Deflate reaches 1,032; bzip2 goes far beyond, but not for real data."""
_SPARE_BYTES = 1 << 20
_MAX_HEAD_BYTES = 1 << 22
"""Of the head of a member in a tar, with its long names: they are read into memory."""
_PIECE_BYTES = 1 << 20
_DAMAGE = (
    OSError,
    EOFError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    RuntimeError,
    ValueError,
)
_Members = Iterator[tuple[str, int, IO[bytes]]]
"""Name, bytes and content of each."""


def unpack(archive: Path, members: Mapping[str, str], folder: Path, told: Told) -> None:
    """Write the members of an archive (tar.bz2, tar.gz or zip) to a folder, each under the name that it is to have.

    Raises UserError for damaged archives, members that are missing or no plain files, and bombs; what is written is
    whole. That the archive is the published one has been made sure of by its hash: what gzip says at its end is not
    waited for. Source of the hazards: the section on extraction filters of Python's documentation of tarfile.
    """
    left = dict(members)
    most = _SPARE_BYTES + _MAX_RATIO * archive.stat().st_size
    try:
        for name, num_bytes, content in _plain_members(archive, left, most):
            target = folder / left.pop(name)
            free = shutil.disk_usage(folder).free
            if num_bytes > free:
                raise UserError(f"{target}: needs {num_bytes:,} bytes, and {folder} has room for {free:,}")
            with whole_file(target) as file:
                _copy(content, file, num_bytes, f"{archive}, {name}", told)
            if not left:
                return
    except _DAMAGE as error:
        raise UserError(f"{archive}: cannot be unpacked: {error or type(error).__name__}") from error
    raise UserError(f"{archive}: has no {', '.join(left)}; is it another archive?")


def _copy(source: IO[bytes], target: IO[bytes], num_bytes: int, what: str, told: Told) -> None:
    done = 0
    while piece := source.read(_PIECE_BYTES):
        done += len(piece)
        if done > num_bytes:
            break
        target.write(piece)
        told.update(what, done, num_bytes, "bytes")
    if done != num_bytes:
        raise UserError(
            f"{what}: has {'more' if done > num_bytes else 'fewer'} than the {num_bytes:,} bytes it declares"
        )


def _plain_members(archive: Path, wanted: Mapping[str, str], most: int) -> _Members:
    """Yield those members that are wanted still, as they come."""
    with open_plain(archive) as file:
        if zipfile.is_zipfile(file):
            yield from _of_zip(archive, file, wanted, most)
        else:
            file.seek(0)
            yield from _of_tar(archive, file, wanted, most)


def _of_zip(archive: Path, file: IO[bytes], wanted: Mapping[str, str], most: int) -> _Members:
    with zipfile.ZipFile(file) as opened:
        for info in opened.infolist():
            if info.filename not in wanted:
                continue
            if info.is_dir():
                raise UserError(f"{archive}, {info.filename}: is no plain file")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise UserError(
                    f"{archive}, {info.filename}: is compressed in another way than zip archives usually are"
                )
            _check_size(archive, info.filename, info.file_size, most)
            with opened.open(info) as content:
                yield info.filename, info.file_size, content


def _of_tar(archive: Path, file: IO[bytes], wanted: Mapping[str, str], most: int) -> _Members:
    counted = _Counted(_unpacked(file), most)
    with tarfile.open(fileobj=counted, mode="r|") as opened:
        skipped = 0
        while True:
            counted.allow(skipped + _MAX_HEAD_BYTES)
            member = opened.next()
            if member is None:
                return
            name = member.name.removeprefix("./")
            skipped = max(member.size, 0)
            if name not in wanted:
                continue
            content = opened.extractfile(member) if member.isreg() and not member.issparse() else None
            if content is None:
                raise UserError(f"{archive}, {member.name}: is no plain file")
            _check_size(archive, member.name, member.size, most)
            counted.allow(member.size + _MAX_HEAD_BYTES)
            yield name, member.size, content
            skipped = 0


def _unpacked(file: IO[bytes]) -> IO[bytes]:
    head = file.read(3)
    file.seek(0)
    if head == b"BZh":
        return bz2.open(file)
    if head[:2] == b"\x1f\x8b":
        return gzip.open(file)  # type: ignore[return-value]
    return file


def _check_size(archive: Path, name: str, num_bytes: int, most: int) -> None:
    if num_bytes > most:
        raise UserError(
            f"{archive}, {name}: declares {num_bytes:,} bytes, far more than there can be in an archive of its size"
        )


class _Counted(io.RawIOBase):
    """What comes out of a compressed file, up to a limit in all, and one for what comes next."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self._file = file
        self._left = most
        self._allowed = _MAX_HEAD_BYTES  # tarfile reads the first head when it opens

    def allow(self, num_bytes: int) -> None:
        """Let so many bytes come before the next call."""
        self._allowed = num_bytes

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        found = self._file.read(size)
        self._left -= len(found)
        self._allowed -= len(found)
        if self._left < 0:
            raise ValueError("far more comes out of it than there can be in an archive of its size")
        if self._allowed < 0:
            raise ValueError("the head of a member is longer than any has reason to be")
        return found
