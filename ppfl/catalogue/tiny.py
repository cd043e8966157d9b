"""`ppfl data make-tiny`: small made-up files of the same schema, in a folder that is there as a whole or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ppfl.catalogue.index import find
from ppfl.core.errors import UserError
from ppfl.core.files import hidden_name


def make_tiny(name: str, folder: Path) -> list[Path]:
    """Write the files of a data set into folder/name; return those beside which there is no folder.

    Raises UserError where there is something at folder/name or it cannot be written.
    """
    data_set, out = find(name), folder / name
    if out.exists() or out.is_symlink():
        raise UserError(f"{out}: exists; choose another folder, or remove it")
    partial = hidden_name(out)
    try:
        partial.mkdir(parents=True)
        data_set.write_tiny(partial)
        partial.rename(out)
    except OSError as error:
        raise UserError(f"{out}: cannot write it: {os.strerror(error.errno) if error.errno else error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return sorted(path for path in out.iterdir())
