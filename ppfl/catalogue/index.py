"""The data sets that there are, found by the names of their files."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ppfl.core.errors import UserError

if TYPE_CHECKING:
    from ppfl.catalogue.entry import DataSet

_FOLDER = Path(__file__).with_name("sets")


def names() -> list[str]:
    """Return the names of all data sets, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("[a-z]*.py"))


def find(name: str) -> DataSet:
    """Return a data set. Raises UserError for names that there are not."""
    if name not in names():
        raise UserError(f"{name}: there is no such data set; allowed: {', '.join(names())}")
    found: DataSet = importlib.import_module(f"ppfl.catalogue.sets.{name}").DATA_SET
    return found


def default_folder() -> Path:
    """Return where data sets are: in the folder PPFL_DATA, or else in the cache of the user."""
    if given := os.environ.get("PPFL_DATA"):
        return Path(given)
    try:
        # as pooch would, which need not be installed for files that are there
        return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "ppfl"
    except RuntimeError as error:
        raise UserError("there is no home folder; name a folder with --folder, or in PPFL_DATA") from error


def where_to_put(name: str, folder: Path) -> str:
    """Return which files belong where, and where they come from."""
    files = [
        f"{download.name} from {download.address}" + (f" ({download.hashed})" if download.hashed else "")
        for download in find(name).downloads
    ]
    return f"put into {folder / name}: {'; '.join(files)}"
