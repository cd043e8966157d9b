"""Removes what killed processes were writing: hidden files (`ppfl.core.files.hidden_name`) that are nobody's.

A file is nobody's when its process is gone from this host, or when nobody on another host has written to it for a day;
for whoever has the claim on its result, for a minute.
"""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from typing import TYPE_CHECKING

from ppfl.core.files import HIDDEN, time_in
from ppfl.jobs.owner import has_ended, read_owner
from ppfl.results.layout import STALE_SECONDS, WORK_FOLDER, apart_path

if TYPE_CHECKING:
    from pathlib import Path

ABANDONED_SECONDS = 86_400.0
_seen: set[Path] = set()


def clear_folder(folder: Path) -> None:
    """Look through a folder of results, and through the checkpoints in it, also where results are computed that are
    to be delivered. What cannot be removed stays.
    """
    for place in (folder, folder / WORK_FOLDER):
        for holding in (place, *_folders_in(place, ".checkpoint")):
            for name in _hidden_in(holding, "."):
                if HIDDEN.fullmatch(name):
                    _remove(holding / name, ABANDONED_SECONDS)


def clear_folder_once(folder: Path) -> None:
    """Do so for the first run of this process in a folder, which may hold thousands of results."""
    if folder not in _seen:
        _seen.add(folder)
        clear_folder(folder)


def clear_result(result: Path) -> None:
    """Look at what is hidden beside one result, in both places; called by whoever has the claim on it.

    Then also files without an owner in their name go, as older versions wrote them, and turns of dead takers.
    """
    for path in (result, apart_path(result)):
        for name in _hidden_in(path.parent, f".{path.name}."):
            if name.endswith((".partial", ".stale", ".probe", ".turn")):
                _remove(path.with_name(name), STALE_SECONDS)


def _remove(path: Path, after_seconds: float) -> None:
    with suppress(OSError):
        if _is_nobodys(path, after_seconds):
            path.unlink()


def _is_nobodys(path: Path, after_seconds: float) -> bool:
    host, pid = _writer_of(path)
    # no owner in its name, as of older versions: only who has the claim on the result asks about these
    if pid is None:
        return not path.name.endswith(".turn") or _age(path) > after_seconds
    # on this host the kernel knows; of another one nothing is known but the age of the file
    if host == platform.node():
        # a file of our own may be written by another thread at this moment
        return pid != os.getpid() and has_ended(pid)
    return _age(path) > after_seconds


def _writer_of(path: Path) -> tuple[str, int | None]:
    """Return host and process that write a hidden file; a turn has them inside. ("", None): it does not say."""
    if match := HIDDEN.fullmatch(path.name):
        return match["host"], int(match["pid"])
    taker = read_owner(path) if path.name.endswith(".turn") else None
    return (taker.host, taker.pid) if taker is not None else ("", None)


def _age(path: Path) -> float:
    """Return the seconds since somebody wrote to a file, by the clock of the file system: clocks of hosts differ."""
    return time_in(path.parent) - path.lstat().st_mtime


def _hidden_in(folder: Path, beginning: str) -> list[str]:
    """Return the names of the hidden files of a folder that begin like this."""
    try:
        with os.scandir(folder) as entries:
            return [e.name for e in entries if e.name.startswith(beginning) and not e.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _folders_in(folder: Path, ending: str) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [folder / e.name for e in entries if e.name.endswith(ending) and e.is_dir(follow_symlinks=False)]
    except OSError:
        return []
