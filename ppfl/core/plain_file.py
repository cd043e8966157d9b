"""Opens files that others may have put there: a pipe would be waited for, and a device may have no end."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from io import BufferedReader
    from pathlib import Path


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
