"""Runs that are computed together, seen one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppfl.engine.ledger import Scored

if TYPE_CHECKING:
    from ppfl.engine.lockstep import Lockstep


def scores_of_each(together: Lockstep) -> list[list[Scored]]:
    """Run all rounds; return what each run has scored, as it would alone."""
    found: list[list[Scored]] = [[] for _ in together.runs]
    for scored in together.run():
        for row, number in enumerate(scored.numbers):
            metrics = {name: values[row] for name, values in scored.metrics.items()}
            costs = {name: float(values[row]) for name, values in scored.costs.items()}
            found[number].append(Scored(scored.round, metrics, costs))
    return found
