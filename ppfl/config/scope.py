"""The plug-ins from outside that one configuration may name, and those that it uses."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from ppfl.config.errors import ConfigError, Finding
from ppfl.core.errors import UserError
from ppfl.outside.cells import registered
from ppfl.outside.folder import read_folder
from ppfl.outside.installed import installed, load_installed
from ppfl.outside.origin import is_anything_outside, origin_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from ppfl.core.plugins import PlugIn
    from ppfl.outside.folder import Found
    from ppfl.outside.origin import Origin


class Scope:
    """Plug-ins of folders, of this process and of installed packages (`ppfl.core.plugins.Outside`); never changes."""

    def __init__(self, folders: Sequence[Path] = ()) -> None:
        """Read folders. Raises UserError for whatever is wrong in one of them, and for names that exist already."""
        self.folders = tuple(folders)
        self._found = registered()
        for number, folder in enumerate(folders):
            try:
                self._add(read_folder(folder))
            except UserError as error:
                raise UserError(f"plugins[{number}]: {error}") from error

    def _add(self, found: Found) -> None:
        for (room, name), kind in found.items():
            taken = self._found.get((room, name)) or (
                load_installed(room, name) if (room, name) in installed() else None
            )
            if taken is not None:
                here, there = _where(kind), _where(taken)
                raise UserError(f"{here}: {room} has one called {name!r}, which is {there}; allowed: another name")
        self._found |= found

    def names(self, package: str) -> Collection[str]:
        """Return what the plug-ins of a folder, such as "ppfl.algorithms", are called."""
        return sorted({name for room, name in (*self._found, *installed()) if room == _room(package)})

    def find(self, package: str, name: str) -> type[PlugIn] | None:
        """Return the one of this name; installed packages are asked last, since looking for them takes time."""
        key = _room(package), name
        if key in self._found:
            return self._found[key]
        return load_installed(*key) if key in installed() else None


def scope_of(document: Mapping[str, Any], folder: Path, source: str) -> Scope:
    """Return the plug-ins that a document may name beside the package's own; its paths are relative to `folder`.

    Raises ConfigError for whatever is wrong with its `plugins`.
    """
    given = document.get("plugins", ())
    if not isinstance(given, list | tuple) or not all(isinstance(one, str | Path) and str(one) for one in given):
        raise ConfigError(source, Finding("plugins", given, "a list of folders, e.g. [plugins]"))
    if not given:
        return without_folders()
    try:
        return Scope([_absolute(one, folder) for one in given])
    except UserError as error:
        raise ConfigError(source, Finding.text(str(error))) from error


def without_folders() -> Scope:
    """Return what there is without `plugins:`, the same one as long as nothing is registered."""
    return _without_folders(tuple(registered().values()))


@lru_cache(maxsize=1)
def _without_folders(_: object) -> Scope:
    return Scope()


def origins_in(value: Any) -> dict[str, Origin]:
    """Return where the plug-ins that settings consist of come from, by room and name, without the package's own."""
    if not is_anything_outside():
        return {}
    return {origin.key: origin for origin in _origins_in(value)}


def _origins_in(value: Any) -> Iterator[Origin]:
    if isinstance(value, BaseModel):
        if (origin := origin_of(type(value))) is not None:
            yield origin
        for name in type(value).model_fields:
            yield from _origins_in(getattr(value, name))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _origins_in(item)


def carried(settings: BaseModel) -> tuple[Any, ...]:
    """Return what `__reduce__` of settings is to return, so that a process that never saw their plug-ins has them."""
    # the files come first: what follows is of classes that there are when these are
    files = tuple(origin.files for origin in origins_in(settings).values())
    return _made_again, (type(settings), files, settings.__getstate__())


def _made_again(kind: type[BaseModel], _: object, state: dict[Any, Any]) -> BaseModel:
    made = kind.__new__(kind)
    made.__setstate__(state)
    return made


def _absolute(given: str | Path, folder: Path) -> Path:
    try:
        return (folder / Path(given).expanduser()).absolute()
    except RuntimeError as error:
        raise UserError(f"plugins: {given}: there is no home {str(given).split('/')[0]}") from error


def _where(kind: type[PlugIn]) -> str:
    origin = origin_of(kind)
    return origin.where if origin is not None else kind.__name__


def _room(package: str) -> str:
    return package.removeprefix("ppfl.")
