"""Clients that a configuration calls by their names, for a role that they are to have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppfl.core.agree import SharedUserError

if TYPE_CHECKING:
    from collections.abc import Sequence

_MOST_SHOWN = 8


def refuse_unable(
    key: str, wanted: Sequence[str], client_names: Sequence[str], able: Sequence[str], otherwise: str = ""
) -> None:
    """Raise SharedUserError when one is not there or has no training samples, as those have who are able to play it.

    otherwise: what is wrong where all of them are; "" for nothing.
    """
    unknown = sorted(set(wanted) - set(client_names))
    idle = sorted(set(wanted) - set(able) - set(unknown))
    if not unknown and not idle and not otherwise:
        return
    what = otherwise
    if idle:
        what = f"{_shorten(idle)} without training samples would never take part"
    if unknown:
        what = f"no client is called {', '.join(unknown)}"
    there = "the clients are" if len(able) == len(client_names) else "the clients with training samples are"
    raise SharedUserError(f"{key}: {what}; {there} {_shorten(able)}")


def _shorten(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MOST_SHOWN])
    return shown if len(names) <= _MOST_SHOWN else f"{shown}, … ({len(names)} in all)"
