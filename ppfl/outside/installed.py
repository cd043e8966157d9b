"""Plug-ins of installed packages: an entry point of the group `ppfl.plugins` names a package with the same subfolders.

They are looked for when a section names none of the package's own, and imported when they are named.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from ppfl.core.errors import UserError
from ppfl.core.plugins import only_plug_in
from ppfl.outside.folder import refuse_name
from ppfl.outside.origin import ROOMS, Origin, check_fits, has_torch, note_origin

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ppfl.core.plugins import PlugIn

GROUP = "ppfl.plugins"


@cache
def installed() -> Mapping[tuple[str, str], EntryPoint]:
    """Return the entry points, by room and name of each plug-in that they bring. Raises UserError for broken ones."""
    found: dict[tuple[str, str], EntryPoint] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: (package_of(entry), entry.name)):
        try:
            root = importlib.import_module(entry.module)
        except Exception as error:
            raise UserError(_broken(entry, error)) from error
        for room in ROOMS:
            places = [f"{path}/{room}" for path in getattr(root, "__path__", ())]
            for module in pkgutil.iter_modules(places):
                key = room, module.name
                if module.name.startswith("_"):
                    continue
                refuse_name(*key, package_of(entry))
                if key in found:
                    raise UserError(
                        f"{package_of(entry)}: {room} has one called {module.name!r}, which comes with "
                        f"{package_of(found[key])}; allowed: one of these packages"
                    )
                found[key] = entry
    return found


@cache
def load_installed(room: str, name: str) -> type[PlugIn]:
    """Return one of them. Raises UserError when it cannot be imported, or is not what it has to be."""
    entry = installed()[room, name]
    had_torch = has_torch()
    try:
        kind = only_plug_in(importlib.import_module(f"{entry.module}.{room}.{name}"), name)
        check_fits(kind, room)
    except Exception as error:
        raise UserError(_broken(entry, error, f" {room}/{name}")) from error
    identity = {"package": entry.dist.name, "version": entry.dist.version} if entry.dist is not None else {}
    loads_torch = has_torch() and not had_torch
    note_origin(kind, Origin(f"{room}/{name}", package_of(entry), identity, loads_torch=loads_torch))
    return kind


def package_of(entry: EntryPoint) -> str:
    """Return name and version of who brings an entry point."""
    return f"package {entry.dist.name} {entry.dist.version}" if entry.dist is not None else f"package {entry.module}"


def _broken(entry: EntryPoint, error: BaseException, which: str = "") -> str:
    reason = str(error).split("\n", 1)[0]
    kind = "" if isinstance(error, ImportError | TypeError) else f"{type(error).__name__}: "
    return f"{package_of(entry)}: its plug-ins{which} cannot be used: {kind}{reason}; mend it or uninstall it"
