"""One result, two places where it may be computed: beside its file, or in the folder `running` there.

To workflow systems a file that is there is done, and they delete the outputs of a job before it begins and after it
failed. Their runs are computed in `running/` and delivered when they are finished. The claim is beside the final place
in either case, and so are notes of failures; whoever has it goes on from where the checkpoint is.
"""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

from ppfl.core.errors import UserError
from ppfl.core.files import whole_path
from ppfl.results.layout import apart_path, checkpoint_path
from ppfl.results.parameters import parameters_of
from ppfl.results.recorder import look


def place_of_work(result: Path, digest: str, *, apart: bool) -> Path:
    """Return where to compute a result: where there is something to go on from, else where the caller wants it."""
    first, second = (apart_path(result), result) if apart else (result, apart_path(result))
    return second if _has_begun(second, digest) and not _has_begun(first, digest) else first


def deliver(here: Path, result: Path, digest: str) -> bool:
    """Move a finished result with its parameters to its final place; False when a finished one is there already.

    The result moves last, and whatever comes before can be done again. Raises UserError when the disk refuses.
    """
    found = look(result, digest)
    if found == "already done":
        return False
    try:
        # θ and w before the result: whoever sees a finished result finds its parameters there, and after a kill in
        # between the result is still apart, and delivered once more
        for path in parameters_of(here):
            _move(path, result.with_name(path.name))
        if found in ("unfinished", "damaged"):
            _move(here, result)
            return True
        # another job may deliver the same run at this moment: one of the two gets the name
        return _move_once(here, result)
    except OSError as error:
        raise UserError(f"{result}: cannot put the result there: {error.strerror}; it is complete in {here}") from error


def remove_unfinished(result: Path) -> None:
    """Remove what unfinished runs have left of a result that is complete, in both places."""
    for path in (result, apart_path(result)):
        if checkpoint_path(path).exists():
            shutil.rmtree(checkpoint_path(path), ignore_errors=True)
    if apart_path(result).exists():
        for path in [*parameters_of(apart_path(result)), apart_path(result)]:
            with suppress(OSError):
                path.unlink()


def _has_begun(path: Path, digest: str) -> bool:
    """Say whether there is something to go on from, or a complete result that has not been delivered."""
    if checkpoint_path(path).exists():
        return True
    try:
        return look(path, digest) == "already done"
    except UserError:  # something else, which is in nobody's way who works at the other place
        return False


def _move_once(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except FileExistsError:
        if not source.samefile(target):  # on a shared file system it may be our own doing
            return False
    except OSError:  # no hard links there, or another file system
        if os.path.lexists(target):
            return False
        _move(source, target)
        return True
    source.unlink()
    return True


def _move(source: Path, target: Path) -> None:
    try:
        source.replace(target)
    except OSError as error:
        # a rename does not leave a file system, and `running` may be a mount of its own
        if error.errno != errno.EXDEV:
            raise
        with whole_path(target) as partial:
            shutil.copyfile(source, partial)
        source.unlink()
