"""Files: opened when they are plain ones, written whole or not at all, dated by the clock of their own file system.

    write_whole(path, content)
    with whole_file(path) as file: file.write(…)
    with whole_path(path) as partial: …              for libraries that want a name

Every file that ppfl writes is there as a whole, also after a kill or a power cut. The content goes to another name in
the same folder, `.<name>.<pid>-<token>@<host>.partial`, with the mode that the umask gives; it is flushed to the disk
and then gets its name, which is flushed to the disk too. What a killed process leaves is said by that name to be
nobody's (`ppfl.jobs.leftovers`). A symbolic link stays one, its target is replaced; what is no file (a pipe, a device)
is written to directly.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import secrets
import stat
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader


def open_plain(path: Path) -> BufferedReader:
    """Open a file for reading, also behind a symbolic link. Raises OSError, also for what is no plain file."""
    # O_NONBLOCK, or opening a pipe would wait for somebody to write into it; plain files do not care
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    # asked of what is open, not of the name, which somebody may have given to another file meanwhile
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "it is no plain file", str(path))


_LONGEST_NAME = 120
"""Bytes of a name that are kept in that of its partial file: names of more than 255 bytes are refused."""
HIDDEN = re.compile(r"\..+\.(?P<pid>\d+)-[0-9a-f]{8}@(?P<host>.*)\.(partial|stale|probe)", re.DOTALL)
"""What `hidden_name` gives, and which process writes there."""


def hidden_name(path: Path, ending: str = "partial") -> Path:
    """Return a name beside a file that nobody else has, and that says which process of which host it is of."""
    start = os.fsdecode(os.fsencode(path.name)[:_LONGEST_NAME])
    return path.with_name(f".{start}.{os.getpid()}-{secrets.token_hex(4)}@{platform.node()}.{ending}")


_NAMED_IN: ContextVar[set[Path] | None] = ContextVar("folders to be flushed", default=None)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file. Raises OSError when the disk refuses; what was there stays then."""
    with whole_file(path) as file:
        file.write(content)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Give a file, open for writing without a buffer, that gets its name when the block ends without an exception."""
    with whole_path(path) as partial, partial.open("wb", buffering=0) as raw:
        yield _Everything(raw)  # type: ignore[misc]


@contextmanager
def whole_path(path: Path) -> Iterator[Path]:
    """Give a name to write to; what is there gets its right name when the block ends without an exception."""
    if path.exists() and not path.is_file():
        yield path
        return
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    partial = hidden_name(target)
    try:
        yield partial
        # content before name: a power cut between the two would else leave the right name on an empty file. Within
        # one folder a rename is atomic; between file systems it would be a copy
        _flush(partial)
        partial.replace(target)
    # KeyboardInterrupt and SystemExit must not leave a partial file either
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
    if (folders := _NAMED_IN.get()) is not None:
        folders.add(target.parent)
    else:
        _flush_folder(target.parent)


@contextmanager
def names_flushed_together() -> Iterator[None]:
    """Flush the names that files get inside when the block ends, once a folder; until then a power cut may undo them.

    Those that threads give do so when they run in a copy of the context.
    """
    folders: set[Path] = set()
    token = _NAMED_IN.set(folders)
    try:
        yield
    finally:
        _NAMED_IN.reset(token)
        for folder in folders:
            _flush_folder(folder)


class _Everything:
    """A file without a buffer whose `write` writes everything, or raises what the system says."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw

    def write(self, content: bytes | memoryview) -> int:
        rest = memoryview(content).cast("B")
        size = len(rest)
        while len(rest):
            # one call writes what it can: at most 2 GiB on Linux, and less where the disk is nearly full
            rest = rest[self._raw.write(rest) :]
        return size

    def seek(self, offset: int) -> int:
        return self._raw.seek(offset)

    def flush(self) -> None:
        """Do nothing: nothing is held back."""


def _flush(path: Path) -> None:
    # for reading, which folders can be opened for as well; fsync does not mind
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    with suppress(OSError):  # some file systems flush no folders
        _flush(folder)


_PAGE = b"\0" * 65536


def time_in(folder: Path) -> float:
    """Return the time by the clock that dates the files of a folder.

    Raises OSError where nothing can be written, and leaves nothing there: the file has no name where that is possible.
    """
    descriptor = _open_nameless(folder)
    try:
        return os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)


def try_to_write(folder: Path) -> None:
    """Raise OSError when a folder does not take a file of some size."""
    descriptor = _open_nameless(folder)
    try:
        left = memoryview(_PAGE)
        while left:
            left = left[os.write(descriptor, left) :]
    finally:
        os.close(descriptor)


def _open_nameless(folder: Path) -> int:
    with suppress(OSError):  # which file systems cannot: NFS, FAT, some of FUSE, each with an error of its own
        return os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    path = hidden_name(folder / "time", "probe")
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with suppress(OSError):
        path.unlink()
    return descriptor
