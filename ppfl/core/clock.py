"""The clock of a file system, by which the ages of files on it are judged: those of hosts differ."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from ppfl.core.whole_file import hidden_name

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
