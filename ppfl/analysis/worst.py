"""The dimension over which a table shows the worst: which factors make it up, and what its values are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ppfl.analysis.dimensions import case_factor, short_names
from ppfl.analysis.factors import NONE
from ppfl.analysis.sources import full_key
from ppfl.core.errors import UserError

if TYPE_CHECKING:
    from ppfl.analysis.dimensions import Settings
    from ppfl.analysis.factors import Factor


def split_worst(
    factors: Sequence[Factor], given: str, settings: Sequence[Settings]
) -> tuple[list[Factor], tuple[str, ...]]:
    """Return the factors that are left, and the value of the dimension of every run.

    given: a key that varies, or a section of which keys vary, or the end of either; a section is all of these keys,
    such as the name of an attack and its settings, and what always varies together with one of them. Raises UserError
    when there is no such one.
    """
    where = f"--worst {given}"
    keys = [key for factor in factors for key in factor.keys]
    if not keys:
        raise UserError(f"{where}: nothing varies between these runs but seeds")
    sections = dict.fromkeys(key.rsplit(".", count)[0] for key in keys for count in range(1, key.count(".") + 1))
    found = full_key(given, [*keys, *(section for section in sections if section not in keys)], where)
    inside = [factor for factor in factors if any(_is_in(key, found) for key in factor.keys)]
    names = short_names(keys, frozenset(), settings)
    return [factor for factor in factors if factor not in inside], _labels(inside, found, settings, names)


def _labels(
    inside: Sequence[Factor], found: str, settings: Sequence[Settings], names: Mapping[str, str]
) -> tuple[str, ...]:
    """Return what the value of each run is called: by its plug-in alone where that is enough, else with its keys."""
    joined = case_factor(inside, settings, names)
    key = joined.keys[0]
    # several keys are written with their names anyway; one of a section would be a bare number
    if len(joined.keys) > 1 or key == found or key.endswith(".name"):
        return joined.labels
    return tuple(label if label == NONE else f"{names[key]}={label}" for label in joined.labels)


def _is_in(key: str, section: str) -> bool:
    return key == section or key.startswith(f"{section}.")
