"""Scores and costs of several runs that are computed together: a column a name, a row a run."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np

from ppfl.engine.ledger import TOTALS

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ppfl.engine.run import Run

_totals = attrgetter(*TOTALS)


@dataclass(frozen=True)
class ScoredRuns:
    """Scores and costs of R runs after `round` rounds."""

    round: int
    numbers: tuple[int, ...]
    """Of the runs."""
    metrics: dict[str, np.ndarray]
    """(R, …)."""
    costs: dict[str, np.ndarray]
    """(R,)."""


def judged(
    runs: Sequence[Run],
    numbers: Sequence[int],
    round: int,
    metrics: dict[str, np.ndarray],
    lost: Collection[Run] = (),
) -> ScoredRuns:
    """Return what `Ledger.scored` returns of each run, and decide on divergence as it does; one process has all
    clients. lost: runs whose last aggregate was not finite."""
    for run, loss in zip(runs, metrics["loss"].tolist(), strict=True):
        run.ledger.judge(round, loss, is_finite=run not in lost)
        run.ledger.told.check()
    told = [run.ledger.told.series() for run in runs] if runs[0].setup.reports else [{}]
    series = {name: np.stack([of_run[name] for of_run in told]) for name in told[0]}
    costs = np.array([_totals(run.ledger.costs) for run in runs], dtype=np.float64)
    return ScoredRuns(round, tuple(numbers), {**metrics, **series}, dict(zip(TOTALS, costs.T, strict=True)))


def rows_of_runs(scored: Sequence[ScoredRuns], num_runs: int) -> list[dict[str, np.ndarray]]:
    """Return {"round": (rounds,), name: (rounds, …)} of every run, of all the times when it was scored."""
    parts: list[list[dict[str, np.ndarray]]] = [[] for _ in range(num_runs)]
    for numbers, of_same in groupby(scored, key=lambda one: one.numbers):
        several = list(of_same)
        rounds = np.array([one.round for one in several])
        columns = [{**one.metrics, **one.costs} for one in several]
        # (R, rounds, …): what a run is given lies in one piece
        tables = {name: np.stack([column[name] for column in columns], axis=1) for name in columns[0]}
        for row, number in enumerate(numbers):
            parts[number].append({"round": rounds, **{name: table[row] for name, table in tables.items()}})
    return [_joined(of_run) for of_run in parts]


def _joined(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
