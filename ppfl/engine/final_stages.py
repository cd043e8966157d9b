"""Scores at the end of a run: of what it has come to, and of what it was at its best round."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ppfl.engine.evaluate import Stages, score_stages

if TYPE_CHECKING:
    from ppfl.engine.run import Run

BEST = "best_"
"""Before the name of a stage: at the best round, and not at the last one."""


def final_stages(run: Run) -> Stages:
    """Return the scores of all stages; where a best round was looked for, those of it after those of the last round.

    Collective.
    """
    last = score_stages([run])[0]
    if run.best is None:
        return last
    if run.best.round == run.best.last_round:
        return _one_after_the_other(last, last)
    with run.best.in_place(run):
        return _one_after_the_other(last, score_stages([run])[0])


def _one_after_the_other(last: Stages, best: Stages) -> Stages:
    scores = last.scores | {BEST + stage: of_stage for stage, of_stage in best.scores.items()}
    costs = last.costs | {BEST + stage: cost for stage, cost in best.costs.items()}
    summary = {metric: np.concatenate([values, best.summary[metric]]) for metric, values in last.summary.items()}
    return Stages(scores, costs, summary)
