"""Removes what killed processes were writing beside a result: hidden files, of which nobody knows any more."""

from __future__ import annotations

import os
import platform
import re
from contextlib import suppress
from pathlib import Path

from ppfl.results.clock import host_in_names, time_in
from ppfl.results.layout import STALE_SECONDS
from ppfl.results.owner import has_ended, read_owner

_ENDING = re.compile(r"\.(partial|stale|turn|probe)$")
_OWNED = re.compile(r"\.([^.]+)\.(\d+)(\.[0-9a-f]{16})?\.(partial|stale|probe)$")
"""The end of a name by `own_name`, with a token or without."""


def remove_leftovers(result: Path) -> None:
    """Remove what dead processes have left half written; called by whoever has the claim on a result.

    Files that only such a one writes have no owner in their name, and are of one before. Those of others (who want the
    run, or note why a rank died) are removed when their process is gone, or after a minute.
    """
    with suppress(OSError), os.scandir(result.parent) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(f".{result.name}.")]
        for name in filter(_ENDING.search, names):
            path = result.with_name(name)
            if _is_left(path):
                with suppress(OSError):
                    path.unlink()


def _is_left(path: Path) -> bool:
    if path.name.endswith(".turn"):
        taker = read_owner(path)
        if taker is not None and taker.host == platform.node() and taker.pid is not None:
            return has_ended(taker.pid)
        return _is_old(path)
    owned = _OWNED.search(path.name)
    if owned is None:
        return True
    host, pid = owned[1], int(owned[2])
    if host == host_in_names():
        return pid != os.getpid() and has_ended(pid)
    return _is_old(path)


def _is_old(path: Path) -> bool:
    return time_in(path.parent) - path.lstat().st_mtime > STALE_SECONDS
