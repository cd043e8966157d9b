"""Runs to the cells of an array: what varies becomes dimensions, and what forms no product one dimension `case`."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from ppfl.analysis.factors import NONE, Factor, find_factors, is_seed, of_one_key
from ppfl.core.errors import UserError

CASE = "case"
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Coordinate:
    """The values of one key along a dimension; `name` is short, `path` the whole key."""

    name: str
    path: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Dimension:
    """`levels` has the place of every run; the first coordinate of a dimension that is not `case` has its name."""

    name: str
    size: int
    levels: tuple[int, ...]
    coordinates: tuple[Coordinate, ...]


def find_dimensions(settings: Sequence[Settings], taken: frozenset[str], *, is_whole: bool) -> list[Dimension]:
    """Return the dimensions of runs from their flat configurations, in the order of their keys, seeds last.

    `taken` are names that coordinates may not have. `is_whole` says that all runs of the plan are there: then only a
    full product is one; else up to half of its cells may be missing. Raises UserError when two runs agree in all keys.
    """
    factors = find_factors(settings, with_seeds=True)
    names = short_names([key for factor in factors for key in factor.keys], taken, settings)
    apart, rest = split_cases(factors, settings, is_whole=is_whole)
    dimensions = [_plain(factor, settings, names) for factor in apart]
    if rest:
        dimensions.append(_case(rest, settings, names))
    # what only repeats an experiment comes last
    dimensions.sort(key=lambda dimension: all(is_seed(coordinate.path) for coordinate in dimension.coordinates))
    cells = list(zip(*(dimension.levels for dimension in dimensions), strict=True)) or [()] * len(settings)
    if len(set(cells)) < len(settings):
        raise UserError("two of these runs have the same configuration; collect them apart")
    return dimensions


def split_cases(
    factors: Sequence[Factor], settings: Sequence[Settings], *, is_whole: bool, keep: Collection[str] = ()
) -> tuple[list[Factor], list[Factor]]:
    """Separate the factors that every combination of the others comes with from those that make up cases.

    Factors of the keys `keep` are no cases.
    """
    apart: list[Factor] = []
    rest = list(factors)
    for factor in factors:
        others = [other for other in rest if other is not factor]
        combinations = set(zip(*(other.labels for other in others), strict=True)) or {()}
        present = len(set(zip(*(other.labels for other in rest), strict=True)))
        possible = len(factor.levels) * len(combinations)
        # a key that some runs lack, such as a setting of one method, can be no dimension of all of them
        everywhere = all(key in config for key in factor.keys for config in settings)
        if (
            set(keep) & set(factor.keys)
            or present == possible
            or (not is_whole and everywhere and 2 * present > possible)
        ):
            apart.append(factor)
            rest = others
    return apart, rest


def _plain(factor: Factor, settings: Sequence[Settings], names: Mapping[str, str]) -> Dimension:
    first_runs = {label: run for run, label in reversed(list(enumerate(factor.labels)))}
    levels = factor.levels
    values = {label: settings[run].get(factor.keys[0]) for label, run in first_runs.items()}
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values.values()):
        # numbers by size, for axes; texts stay in the order of the plan
        levels = sorted(levels, key=lambda label: float(values[label] or 0))
    place = {label: number for number, label in enumerate(levels)}
    runs = [first_runs[label] for label in levels]
    coordinates = tuple(
        Coordinate(names[key], key, tuple(settings[run].get(key) for run in runs)) for key in factor.keys
    )
    return Dimension(coordinates[0].name, len(levels), tuple(place[label] for label in factor.labels), coordinates)


def _case(factors: Sequence[Factor], settings: Sequence[Settings], names: Mapping[str, str]) -> Dimension:
    named = case_factor(factors, settings, names)
    place = {label: number for number, label in enumerate(dict.fromkeys(named.labels))}
    runs = [named.labels.index(label) for label in place]
    keys = [key for factor in factors for key in factor.keys]
    coordinates = tuple(Coordinate(names[key], key, tuple(settings[run].get(key) for run in runs)) for key in keys)
    labels = Coordinate(CASE, "", tuple(place))
    return Dimension(CASE, len(runs), tuple(place[label] for label in named.labels), (labels, *coordinates))


def case_factor(factors: Sequence[Factor], settings: Sequence[Settings], names: Mapping[str, str]) -> Factor:
    """Join factors to one, with labels from as few keys as tell its levels apart."""
    chosen: list[Factor] = []
    rows: list[tuple[str, ...]] = [()] * len(factors[0].labels)
    # what every run has makes better names
    single = [of_one_key(factor, settings) for factor in factors]
    for factor in sorted(single, key=lambda factor: (NONE in factor.labels, -len(factor.levels))):
        longer = [(*row, label) for row, label in zip(rows, factor.labels, strict=True)]
        if len(set(longer)) > len(set(rows)):
            chosen.append(factor)
            rows = longer
    keys = tuple(factor.keys[0] for factor in chosen)
    if len(chosen) == 1:
        return Factor(keys, chosen[0].labels, chosen[0].numbers)
    labels = tuple(
        ", ".join(f"{names[key]}={label}" for key, label in zip(keys, row, strict=True) if label != NONE)
        for row in rows
    )
    return Factor(keys, labels, None)


def short_names(keys: Sequence[str], taken: frozenset[str], settings: Sequence[Settings]) -> dict[str, str]:
    """Name each key by its last part, by more of them where that is not unique; parts are joined by `_`.

    Not unique is also what a run without this key may be thought to have: the `lr` of a method, if that of another
    method's fine-tuner varies.
    """

    def ending(key: str, count: int) -> str:
        return "_".join(key.split(".")[-count:])

    names = {}
    for key in keys:
        others = {other for other in keys if other != key}
        if not is_seed(key):
            others.update(*(config for config in settings if config.get(key) is None))
        others.discard(key)
        longest = key.count(".") + 1
        for count in range(1, longest + 1):
            name = ending(key, count)
            if name not in taken and all(ending(other, count) != name for other in others):
                break
        names[key] = f"{name}_setting" if name in taken else name
    return names


@dataclass(frozen=True)
class Encoded:
    """Values as an array that HDF5 and netCDF can hold; `holds` says what they are."""

    array: npt.NDArray[Any]
    holds: str


def encode(values: Sequence[Any]) -> Encoded:
    """Return numbers of one kind as numbers, truth values as int8, texts as texts, and all else as JSON texts.

    Whole numbers beside fractions are such a mixture: a cohort of 1 is not one of 1.0.
    """
    # by type and not by `isinstance`: true is a number to Python, and 1 is not 1.0 in a configuration
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return Encoded(np.array(values, dtype=np.int8), "bool")
    if kinds in ({int}, {float}):
        array = np.array(values)
        # numbers beyond 64 bits become objects or lose digits: then they are kept as texts
        if array.dtype.kind in "if" and len(set(array.tolist())) == len({repr(value) for value in values}):
            return Encoded(array, "number")
    if kinds == {str} and not any("\0" in value for value in values):
        return Encoded(np.array(values, dtype=object), "text")
    # a text stands for itself unless it could be taken for another value
    are_plain = not any(_is_json(value) for value in values if isinstance(value, str))
    texts = [value if isinstance(value, str) and are_plain else json.dumps(value) for value in values]
    return Encoded(np.array(texts, dtype=object), "mixed")


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return "\0" in text
    return True


def cells_of(dimensions: Sequence[Dimension]) -> tuple[tuple[int, ...], npt.NDArray[np.int64]]:
    """Return the shape of the grid, and for each of its cells in C order the number of its run, -1 for none."""
    shape = tuple(dimension.size for dimension in dimensions)
    cells = np.full(prod(shape), -1, dtype=np.int64)
    if not dimensions:
        return shape, np.zeros(1, dtype=np.int64)
    places = np.ravel_multi_index([np.array(dimension.levels) for dimension in dimensions], shape)
    cells[places] = np.arange(len(places))
    return shape, cells
