"""How a run ended, as its result says and, where there is none that has ended, the files beside it."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from ppfl.jobs.failures import failure_since
from ppfl.jobs.owner import read_owner
from ppfl.results.hdf5 import NotHDF5Error
from ppfl.results.layout import RUNNING, running_path
from ppfl.results.quick_reader import FAILED, MISSING, Outline, read_outline
from ppfl.results.seal import DamagedError

if TYPE_CHECKING:
    from pathlib import Path


def outline(path: Path) -> Outline:
    """Return how the run ended whose result is, or would be, at `path`, whatever state it is in.

    Raises UserError for an HDF5 file that is no result, and for a result of a newer version.
    """
    try:
        found = read_outline(path)
    except FileNotFoundError:
        return _without_file(path)
    except OSError as error:
        return Outline(FAILED, f"the result cannot be read: {error.strerror}")
    except (DamagedError, NotHDF5Error) as error:
        return Outline(FAILED, f"the result cannot be read: {str(error).removeprefix(f'{path}: ')}")
    if found.status == RUNNING and (reason := _failure(path)) is not None:
        return replace(found, status=FAILED, reason=reason)
    return found


def _without_file(path: Path) -> Outline:
    reason = _failure(path)
    if reason is not None:
        return Outline(FAILED, reason)
    return Outline(RUNNING if os.path.lexists(running_path(path)) else MISSING)


def _failure(path: Path) -> str | None:
    """Return why the last attempt failed; None when none did, or when another one has begun since."""
    failure = failure_since(path, read_owner(running_path(path)))
    return failure.reason if failure is not None else None
