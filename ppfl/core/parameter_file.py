"""Where a run leaves θ, and whose θ that is: by the name and the first bytes of a file, without torch or HDF5."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ppfl.core.errors import UserError
from ppfl.core.files import open_plain

if TYPE_CHECKING:
    from pathlib import Path

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000
"""Of the format safetensors."""


def shared_path(result: Path) -> Path:
    """Return where θ of a result lies."""
    return result.with_name(f"{result.name}.shared.safetensors")


def digest_beside(result: Path) -> str:
    """Return the digest of the run whose θ lies beside a result. Raises UserError where there is none, or it is
    damaged."""
    path = shared_path(result)
    try:
        with open_plain(path) as file:
            # of a damaged file it may be any number, and that many bytes would be asked for
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            header = file.read(length) if length <= _MAX_HEADER_BYTES else b""
        return str(json.loads(header)["__metadata__"]["digest"])
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from error
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: is damaged, or not what a run of ppfl has left") from error
