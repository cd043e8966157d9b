"""Names that are given once: of several who want one, one gets it, also on a file system that hosts share.

A hard link puts a whole file under a name, or fails. Where there are none (FAT, some FUSE and cloud file systems) the
name is created exclusively and filled then: still one gets it, but others may see the file before it is whole, and so
do those who come after a kill in between.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_BOTH_NAMES = 2


def put_once(source: Path, target: Path) -> bool:
    """Put what `source` holds at `target` too; False when that name is taken.

    Raises OSError, and leaves nothing at `target`, when the file system takes neither links nor files.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        # on a shared file system the answer may come from a request that was sent twice
        return source.stat().st_nlink == _BOTH_NAMES
    except OSError:  # which one it is differs: EPERM, EOPNOTSUPP, ENOSYS
        return _create(source, target)
    return True


def _create(source: Path, target: Path) -> bool:
    # without links the name comes first and the content second: whoever reads in between finds a note that says
    # nothing, and looks again
    content = source.read_bytes()
    try:
        file = target.open("xb")
    except FileExistsError:
        return source.stat().st_nlink == _BOTH_NAMES
    try:
        with file:
            file.write(content)
    except OSError:
        with suppress(OSError):
            target.unlink()
        raise
    return True
