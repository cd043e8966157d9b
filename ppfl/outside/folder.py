"""A folder of plug-ins: its subfolders are called as those of the package, and hold one file a plug-in."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from ppfl.core.errors import UserError
from ppfl.core.plugins import names_inside
from ppfl.outside.files import read_plug_in
from ppfl.outside.origin import ROOMS

if TYPE_CHECKING:
    from pathlib import Path

    from ppfl.core.plugins import PlugIn

Found = dict[tuple[str, str], "type[PlugIn]"]
"""By room and name."""


def read_folder(folder: Path) -> Found:
    """Return all plug-ins of a folder; files and folders whose names begin with `_` are helpers of them.

    Raises UserError for a folder that is not there or has none, for one in it that is no room, and for any file that is
    not what it has to be.
    """
    found: Found = {}
    for room, files in _rooms(folder):
        if files and room.name not in ROOMS:
            meant = difflib.get_close_matches(room.name, ROOMS, n=1)
            hint = f"; did you mean {meant[0]!r}?" if meant else ""
            raise UserError(
                f"{room}: no room for plug-ins; allowed: {', '.join(ROOMS)}, or a name that begins with _{hint}"
            )
        for path in files:
            refuse_name(room.name, path.stem, str(path))
            found[room.name, path.stem] = read_plug_in(path, folder).load()
    if not found:
        raise UserError(f"{folder}: has no plug-ins; allowed: a folder with files in {', '.join(ROOMS)}")
    return found


def _rooms(folder: Path) -> list[tuple[Path, list[Path]]]:
    """Return the subfolders and the Python files in each, without helpers."""
    try:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; allowed: an existing one, relative to the configuration")
        rooms = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] not in "._")
        return [(room, sorted(path for path in room.glob("*.py") if path.name[0] not in "._")) for room in rooms]
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}; allowed: a folder") from error


def refuse_name(room: str, name: str, where: str) -> None:
    """Raise UserError for a name that a plug-in of the package has."""
    if name in names_inside(f"ppfl.{room}"):
        raise UserError(f"{where}: {room} has one called {name!r}, which comes with ppfl; allowed: another name")
