"""Clients that are held out of training: what they score with the θ of the others, as it is and fine-tuned."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch

from ppfl.engine.evaluate import columns_of, gather, statistics, total_costs
from ppfl.engine.ledger import StageCosts, summable
from ppfl.engine.setup import who_counts
from ppfl.engine.tuning import applications

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ppfl.core.types import Params
    from ppfl.engine.evaluate import Stages
    from ppfl.engine.run import Run
    from ppfl.interfaces.method import FineTuner, Tuned
    from ppfl.interfaces.problem import Problem


@dataclass(frozen=True)
class Newcomers:
    """Who they are and what they do, resolved."""

    problem: Problem
    tuned_problem: Problem
    """What is fine-tuned: `problem`, or where nothing is local the same with everything local."""
    fine_tuner: FineTuner
    steps: tuple[int, ...]
    """Applications of the fine-tuner before they are scored, ascending, 0 the first."""
    in_rounds: bool
    """Whether they are scored with the rounds, too."""


@dataclass(frozen=True)
class _Found:
    """Of M newcomers."""

    scores: dict[int, dict[str, np.ndarray]]
    """{steps: {metric: (M,)}}."""
    costs: dict[int, StageCosts]
    """{steps: what it took to get there from 0}."""


def stage_of(steps: int) -> str:
    """Return what the stage of newcomers after so many steps is called."""
    return f"newcomers_{steps}"


def with_newcomers(run: Run, stages: Stages) -> Stages:
    """Return final stages with those of newcomers, of a run that has some: their scores by themselves, their costs and
    statistics as stages beside the others. Collective."""
    newcomers = run.setup.newcomers
    if newcomers is None:
        return stages
    with run.ledger.spent.on("final_stages"):
        found = _score(run, newcomers)
    metrics = list(found.scores[0])
    rows = {metric: [_statistics(newcomers, metric, of[metric]) for of in found.scores.values()] for metric in metrics}
    summary = {
        metric: np.concatenate([of_stages, [list(one.values()) for one in rows[metric]]])
        for metric, of_stages in stages.summary.items()
    }
    return replace(
        stages,
        costs={**stages.costs, **{stage_of(steps): cost for steps, cost in found.costs.items()}},
        summary=summary,
        newcomers={metric: np.stack([of[metric] for of in found.scores.values()], axis=1) for metric in metrics},
    )


def series_of_newcomers(run: Run) -> dict[str, float | np.ndarray]:
    """Return {newcomers_<steps>_<metric>: mean over newcomers} for the scores of a round, where they are asked for.
    Collective."""
    newcomers = run.setup.newcomers
    if newcomers is None or not newcomers.in_rounds:
        return {}
    with run.ledger.spent.on("scoring"):
        found = _score(run, newcomers)
    return {
        f"{stage_of(steps)}_{metric}": float(_statistics(newcomers, metric, values)["mean"])
        for steps, of_steps in found.scores.items()
        for metric, values in of_steps.items()
    }


def _statistics(newcomers: Newcomers, metric: str, values: np.ndarray) -> dict[str, np.ndarray]:
    there, weights = who_counts(newcomers.problem.scores.metric_weights(metric), frozenset())
    return statistics(values[there], weights)


def _score(run: Run, newcomers: Newcomers) -> _Found:
    costs = {steps: StageCosts() for steps in newcomers.steps}
    clients = newcomers.problem.client_data.clients
    rows: dict[int, dict[str, float]] = {}
    for client in clients:
        of_client = dict(zip(newcomers.steps, _of_newcomer(run, newcomers, client, costs), strict=True))
        rows[client] = {_key(steps, name): score for steps, of in of_client.items() for name, score in of.items()}
    # a rank without newcomers has nobody to ask for names
    names = list(newcomers.problem.scores.of_nobody())
    found = gather(run.setup, columns_of(clients, rows, [_key(n, name) for n in newcomers.steps for name in names]))
    scores = {steps: {name: found[_key(steps, name)] for name in names} for steps in newcomers.steps}
    return _Found(scores, {steps: total_costs(run.setup, cost) for steps, cost in costs.items()})


def _key(steps: int, metric: str) -> str:
    return f"{steps}/{metric}"


def _of_newcomer(
    run: Run, newcomers: Newcomers, client: int, costs: Mapping[int, StageCosts]
) -> Iterator[Mapping[str, float]]:
    """Yield the scores of one newcomer of this rank after each number of steps; adds to what they have cost."""
    setup, server, problem = run.setup, run.server, newcomers.problem
    # as any client before its first round, with the θ of now
    state = setup.algorithm.init_client(server["shared"], problem.objective.init_local(client))
    shared, local = setup.algorithm.view(server, state)
    advanced = problem.scores.advanced(client)
    yield problem.scores.metrics_of(shared, local, advanced)
    if newcomers.tuned_problem is not problem:
        problem, whole = newcomers.tuned_problem, {**shared, **local}
        shared, local = {}, {name: whole[name] for name in problem.local_names}
        advanced = problem.scores.advanced(client)
    # as many epochs as steps do, since each is one of them at least; a client without samples has none
    tuning = applications(
        newcomers.fine_tuner, problem, shared, local, advanced, range(newcomers.steps[-1]), setup.num_rounds
    )
    spent = StageCosts()
    for before, steps in zip(newcomers.steps, newcomers.steps[1:], strict=False):
        local = _advanced_by(steps - before, tuning, local, newcomers, spent)
        _add(costs[steps], spent)
        yield problem.scores.metrics_of(shared, local, advanced)


def _advanced_by(
    number: int, tuning: Iterator[Tuned], local: Params, newcomers: Newcomers, spent: StageCosts
) -> Params:
    """Return w after so many applications more; adds to `spent`."""
    started = time.perf_counter()
    for tuned in islice(tuning, number):
        local = tuned.local
        # where whole models are tuned these are gradients of θ, as in the rounds
        if newcomers.tuned_problem is newcomers.problem:
            spent.local_gradients += summable(tuned.num_gradients)
        else:
            spent.shared_gradients += summable(tuned.num_gradients)
    if any(value.device.type == "cuda" for value in local.values()):
        torch.cuda.synchronize()
    spent.seconds += time.perf_counter() - started
    return local


def _add(cost: StageCosts, more: StageCosts) -> None:
    cost.shared_gradients += more.shared_gradients
    cost.local_gradients += more.local_gradients
    cost.seconds += more.seconds
