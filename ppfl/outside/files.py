"""A plug-in file and what it imports from its folder, and the class in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ppfl.core.errors import UserError
from ppfl.core.plugins import only_plug_in
from ppfl.core.source_files import SourceFiles, known_again, read_sources
from ppfl.outside.origin import Origin, check_fits, has_torch, note_origin, origin_of

if TYPE_CHECKING:
    from pathlib import Path

    from ppfl.core.plugins import PlugIn


class PlugInFiles(SourceFiles):
    """The files that a plug-in consists of; `folder` is what `plugins:` names, `module` is room/name."""

    def load(self) -> type[PlugIn]:
        """Return the plug-in. Raises UserError, with the line, for a file that cannot be imported or has none."""
        room, name = self.module.split("/")
        had_torch = has_torch()
        module = self.import_module()
        loads_torch = has_torch() and not had_torch
        try:
            kind = only_plug_in(module, name)
            check_fits(kind, room)
        except TypeError as error:
            raise UserError(f"{self.path}: {error}") from error
        if origin_of(kind) is None:  # else it was here before, and what it loaded is known
            note_origin(
                kind, Origin(self.module, str(self.path), {"sha256": self.sha256}, self, loads_torch=loads_torch)
            )
        return kind

    def __reduce__(self) -> tuple[Any, ...]:
        """Be loaded as a plug-in wherever this is sent to: what is sent after it may be of its class."""
        return _load_again, (self.folder, self.module, dict(self.contents))


def _load_again(folder: Path, module: str, contents: dict[str, bytes]) -> PlugInFiles:
    files = known_again(PlugInFiles, folder, module, contents)
    files.load()
    return files


def read_plug_in(path: Path, folder: Path) -> PlugInFiles:
    """Read a plug-in's file and, one after another, what is imported from the folder, also inside of functions.

    Raises UserError for files that cannot be read or are not Python.
    """
    return PlugInFiles(folder, f"{path.parent.name}/{path.stem}", read_sources(path, folder))
