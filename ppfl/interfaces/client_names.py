"""Names that clients may have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppfl.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence


def refuse_names(names: Sequence[str], where: str) -> None:
    """Raise UserError, which begins with `where`, for a name that results cannot hold."""
    # as texts of HDF5, which end at a zero
    if "" in names or "\0" in "".join(names):
        bad = next(name for name in names if not name or "\0" in name)
        raise UserError(f"{where}: has {bad!r}; a name must have a character, and none that is zero")
