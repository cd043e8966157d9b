"""Removes what killed processes were writing: files without their name yet (`ppfl.core.whole_file`) that are nobody's.

A file is nobody's when its process is gone from this host, or when nobody on another host has written to it for a day.
"""

from __future__ import annotations

import os
import platform
import tempfile
from contextlib import suppress
from typing import TYPE_CHECKING

from ppfl.core.whole_file import PARTIAL
from ppfl.results.owner import has_ended

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

ABANDONED_SECONDS = 86_400.0
_seen: set[Path] = set()


def remove_partials(folder: Path) -> None:
    """Look through a folder, and through the checkpoints in it. What cannot be removed stays."""
    _remove(folder, deeper=True)


def remove_partials_once(folder: Path) -> None:
    """Do so for the first run of this process in a folder, which may hold thousands of results."""
    if folder not in _seen:
        _seen.add(folder)
        remove_partials(folder)


def _remove(folder: Path, *, deeper: bool) -> None:
    with suppress(OSError), os.scandir(folder) as entries:
        names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for path in _abandoned(folder, [name for name, is_folder in names if not is_folder]):
            with suppress(OSError):
                path.unlink()
        for name, is_folder in names:
            if is_folder and deeper and name.endswith(".checkpoint"):
                _remove(folder / name, deeper=False)


def _abandoned(folder: Path, names: Iterable[str]) -> list[Path]:
    """Return the files among them that are nobody's."""
    found = []
    for name in names:
        match = PARTIAL.fullmatch(name)
        if match is None:
            continue
        path = folder / name
        if has_ended(int(match["pid"])) if match["host"] == platform.node() else _age(path) >= ABANDONED_SECONDS:
            found.append(path)
    return found


def _age(path: Path) -> float:
    """Return the seconds since somebody wrote to a file, by the clock of the file system: clocks of hosts differ."""
    with tempfile.TemporaryFile(dir=path.parent) as fresh:
        return os.fstat(fresh.fileno()).st_mtime - path.stat().st_mtime
