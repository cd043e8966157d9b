"""Where the time went: for every kind of run a bar of the seconds by what they were spent on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ppfl.analysis.factors import find_factors, flatten
from ppfl.analysis.tables import texts_in_column

if TYPE_CHECKING:
    from ppfl.results.reader import Result

MAX_BARS = 40
"""Kinds of runs that are told apart; of more there is one bar, the mean over all."""
_AS_THEY_COME = ("start", "rounds", "communication", "scoring", "checkpoints", "writing", "final_stages")
"""Purposes in the order of a run; others come after them."""


@dataclass(frozen=True)
class Bar:
    """Mean seconds of runs that differ in their seeds alone."""

    label: str
    num_runs: int
    seconds: dict[str, float]
    """By purpose, in the order of a run; all bars of an experiment have the same purposes."""

    @property
    def total(self) -> float:
        """All of them."""
        return sum(self.seconds.values())


def time_bars(results: Sequence[Result]) -> list[Bar]:
    """Return a bar a kind of run, in the order of the runs; none where no result says what its time was spent on."""
    told = [result for result in results if result.seconds]
    purposes = list(dict.fromkeys([*_AS_THEY_COME, *(name for result in told for name in result.seconds)]))
    purposes = [name for name in purposes if any(result.seconds.get(name, 0.0) > 0 for result in told)]
    kinds: dict[str, list[Result]] = {}
    for result, label in zip(told, _labels(told), strict=True):
        kinds.setdefault(label, []).append(result)
    if len(kinds) > MAX_BARS:
        kinds = {"mean over all": told}
    return [Bar(label, len(of_kind), _means(of_kind, purposes)) for label, of_kind in kinds.items()]


def _labels(results: Sequence[Result]) -> list[str]:
    configs = [result.config for result in results]
    keys = [key for factor in find_factors(configs) for key in factor.keys] if configs else []
    columns = [texts_in_column([flatten(config).get(key) for config in configs]) for key in keys]
    names = [key.rsplit(".", 1)[-1] for key in keys]
    return [
        ", ".join(f"{name} {column[row]}" for name, column in zip(names, columns, strict=True)) or "all runs"
        for row in range(len(results))
    ]


def _means(results: Sequence[Result], purposes: Sequence[str]) -> dict[str, float]:
    return {name: sum(result.seconds.get(name, 0.0) for result in results) / len(results) for name in purposes}
