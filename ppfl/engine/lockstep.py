"""Several runs at once, round by round, each with the bits that it has alone.

Clients of all runs are lanes of one computation (`ppfl.engine.mapping.laned`). Runs may differ in their problems'
numbers and in what their servers do; what a client does, and all shapes, must be the same.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from ppfl.core.content import content
from ppfl.engine.batch import Batch
from ppfl.engine.evaluate import score_columns
from ppfl.engine.mapping.laned import Laned
from ppfl.engine.run import Run
from ppfl.engine.scored_runs import judged
from ppfl.interfaces.aggregator import is_sum
from ppfl.interfaces.personal_aggregates import goes_with_others

if TYPE_CHECKING:
    from ppfl.engine.scored_runs import ScoredRuns
    from ppfl.engine.setup import Setup


def fits(setup: Setup) -> bool:
    """Say whether a run can be one of several: its clients can be lanes, the mean over all of them is taken, and what
    is sent is the same in all runs but for its numbers."""
    return (
        setup.communicator.size == 1
        and is_sum(setup.aggregator)
        and setup.byzantine is None
        and setup.compute_times is None
        and setup.tuned_problem is setup.problem
        and setup.best_round is None
        and setup.newcomers is None
        and goes_with_others(setup.algorithm)
        and Laned.can(setup)
    )


def kind_of(setup: Setup) -> Hashable:
    """Return the same for runs whose clients do the same on tensors of the same shapes and number types.

    The method, the server optimizer and the fine-tuner of the first run work for all of them, so all that they hold has
    to be alike, but for numbers that the server's function of a method alone looks at.
    """
    problem, algorithm = setup.problem, setup.algorithm
    settings = content(algorithm, leave_out=algorithm.server_settings)
    data = problem.client_data.data(problem.client_data.clients.start, 0)
    kinds = tuple((name, value.shape, value.dtype) for name, value in data.items())
    types = (type(problem.objective), type(problem.scores))
    names = (problem.objective.parameter_names, problem.local_names)
    lengths = (problem.client_data.num_clients, setup.num_rounds, setup.evaluate_every, setup.tuned_epochs)
    others = (content(setup.server_optimizer), content(setup.tuned_fine_tuner), setup.reports, setup.history)
    return types, settings, kinds, names, lengths, *others


class Lockstep:
    """Runs of one kind."""

    def __init__(self, setups: Sequence[Setup]) -> None:
        laned = Laned(*setups)
        self.runs = [Run(setup, laned) for setup in setups]
        self._numbers = {run: number for number, run in enumerate(self.runs)}

    def run(self, wants_stop: Callable[[], bool] = lambda: False) -> Iterator[ScoredRuns]:
        """Run all rounds; yield the scores of the runs that would score now if they were alone.

        Runs that are still "running" afterwards were stopped, and what they did is lost.
        """
        setup, active = self.runs[0].setup, self.runs
        batch = Batch(active)
        yield self._score(active, batch, 0, active)
        for done in range(1, setup.num_rounds + 1):
            if wants_stop():
                return
            is_finite = batch.play(done - 1)
            lost = [] if is_finite.all() else [active[number] for number in torch.nonzero(~is_finite)[:, 0].tolist()]
            is_due = done % setup.evaluate_every == 0 or done == setup.num_rounds
            if not is_due and not lost:
                continue
            batch.count()
            yield self._score(active, batch, done, active if is_due else lost, lost)
            still = [run for run in active if run.status == "running"]
            if len(still) < len(active) or done == setup.num_rounds:
                batch.settle()
            if not still:
                return
            if len(still) < len(active):
                active = regrouped(still)
                batch = Batch(active)
        for run in active:
            run.ledger.status = "complete"

    def _score(
        self, active: Sequence[Run], batch: Batch, done: int, due: Sequence[Run], lost: Sequence[Run] = ()
    ) -> ScoredRuns:
        columns = score_columns(active, done, batch)
        if len(due) < len(active):
            rows = [active.index(run) for run in due]
            columns = {name: values[rows] for name, values in columns.items()}
        return judged(due, [self._numbers[run] for run in due], done, columns, lost)


def regrouped(runs: Sequence[Run]) -> list[Run]:
    """Let some of the runs go on without the others."""
    setups, laned = [run.setup for run in runs], runs[0].group.laned
    if laned is None or len(laned.setups) != len(setups) or any(a is not b for a, b in zip(laned.setups, setups)):  # noqa: B905
        laned = Laned(*setups)
    for run in runs:
        run.group.mapping = laned
    return list(runs)
