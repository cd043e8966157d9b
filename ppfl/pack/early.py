"""What the children of a pack need, loaded while its parent still reads the configuration."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ppfl.pack.scheduler import begin_loading
from ppfl.results.layout import RESULT_SUFFIX

if TYPE_CHECKING:
    from pathlib import Path

WORK_OF_CELLS = "ppfl.pack.loaded:make_work"
"""What does runs of one rank."""


def load_for(folder: Path) -> bool:
    """Begin to load what runs of one rank need, unless results are there: then all may be done, and nothing be needed.

    Nothing is waited for. Returns whether it has begun.
    """
    is_needed = not _has_results(folder)
    if is_needed:
        begin_loading(WORK_OF_CELLS)
    return is_needed


def _has_results(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(entry.name.endswith(RESULT_SUFFIX) for entry in entries)
    except OSError:  # it is still to be made; whatever else is wrong with it is told by whoever makes it
        return False
