"""Which of the keys that vary become panels, colours and line styles of a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from ppfl.analysis.factors import Factor
from ppfl.analysis.sources import full_key
from ppfl.core.errors import UserError

MAX_PANELS = 16
MAX_COLOURS = 12
MAX_STYLES = 4


@dataclass(frozen=True)
class Roles:
    """Which factors are panels, which one is colour, which one is line style."""

    panels: tuple[Factor, ...]
    colour: Factor | None
    style: Factor | None


def assign_roles(factors: Sequence[Factor], panel: str | None = None, colour: str | None = None) -> Roles:
    """One factor: colour. Two: panels and colour. More: panels, colour and line style.

    `panel` and `colour` are keys, or ends of keys, that are to have these roles. Raises UserError when there is no such
    key among those that vary, and when the figure would have more panels or colours than can be told apart.
    """
    wanted_panel, wanted_colour = _factor_of(factors, panel, "--panel"), _factor_of(factors, colour, "--color")
    if wanted_panel is not None and wanted_panel is wanted_colour:
        raise UserError(f"--panel {panel}: is the colour already; name two keys that do not vary together")
    rest = [factor for factor in factors if factor is not wanted_panel and factor is not wanted_colour]
    style = None
    if len(factors) > 2:
        style = next((factor for factor in reversed(rest) if len(factor.levels) <= MAX_STYLES), None)
        rest = [factor for factor in rest if factor is not style]
    chosen = wanted_colour or (_colour_of(rest, is_free=wanted_panel is None) if rest else None)
    panels = tuple(factor for factor in ([wanted_panel] if wanted_panel else []) + rest if factor is not chosen)
    _refuse_too_many(panels, chosen)
    return Roles(panels, chosen, style)


def _factor_of(factors: Sequence[Factor], key: str | None, option: str) -> Factor | None:
    if key is None:
        return None
    if not factors:
        raise UserError(f"{option} {key}: nothing varies between these runs but seeds")
    found = full_key(key, [name for factor in factors for name in factor.keys], f"{option} {key}")
    return next(factor for factor in factors if found in factor.keys)


def _colour_of(factors: Sequence[Factor], *, is_free: bool) -> Factor:
    """The last factor is the colour, unless it has too many values for that and another one would do."""
    last, *others = reversed(factors)
    if is_free and len(last.levels) > MAX_COLOURS:
        return next((factor for factor in others if len(factor.levels) <= MAX_COLOURS), last)
    return last


def _refuse_too_many(panels: Sequence[Factor], colour: Factor | None) -> None:
    num_panels, num_colours = prod(len(factor.levels) for factor in panels), len(colour.levels) if colour else 1
    if num_panels <= MAX_PANELS and num_colours <= MAX_COLOURS:
        return
    factors = [*panels, *([colour] if colour else [])]
    varying = ", ".join(f"{factor.title} ({len(factor.levels)} values)" for factor in factors)
    raise UserError(
        f"too much varies for one figure: {varying}; allowed: {MAX_PANELS} panels of {MAX_COLOURS} colours; "
        "choose runs by --where KEY=VALUE, or other roles by --panel and --color"
    )
