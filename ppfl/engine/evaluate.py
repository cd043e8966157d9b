"""Scoring, the same for every method: through `view`, over all clients, in client order."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from ppfl.engine.ledger import StageCosts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ppfl.core.types import Params, State
    from ppfl.engine.group import ClientGroup
    from ppfl.engine.setup import Setup

Stage = Literal["global", "personal", "tuned"]
STAGES: tuple[Stage, ...] = ("global", "personal", "tuned")
STATISTICS = ("mean", "weighted_mean", "q10", "q50", "q90")


@dataclass(frozen=True)
class Stages:
    """What the final stages found, and what their training has cost."""

    scores: dict[Stage, dict[str, np.ndarray]]
    """{stage: {metric: (N,)}}."""
    costs: dict[Stage, StageCosts]

    @property
    def cost_arrays(self) -> dict[str, np.ndarray]:
        """Return the costs as arrays (stage,)."""
        names = [cost.name for cost in fields(StageCosts)]
        return {name: np.array([getattr(cost, name) for cost in self.costs.values()]) for name in names}


def score_round(setup: Setup, group: ClientGroup, server: State, round: int) -> dict[str, float | np.ndarray]:
    """Return the scores of the state after `round` rounds: means over clients, and what the problem says of θ.

    Arrays have shape (N,), one number a client. Collective.
    """

    def score(client: int) -> Mapping[str, float]:
        shared, local = setup.algorithm.view(server, group.state(client))
        return setup.problem.round_metrics(shared, local, client, round)

    scores: dict[str, float | np.ndarray] = {
        name: mean_over_clients(setup, name, values) for name, values in _gather(setup, score).items()
    }
    for name, value in setup.problem.shared_metrics(server["shared"]).items():
        scores[name] = float(value) if value.ndim == 0 else value.cpu().numpy()
    return scores


def score_stages(setup: Setup, group: ClientGroup, server: State) -> Stages:
    """Score `global` (θ with the client's initial w), `personal` (the client's own w) and `tuned` (after a final
    fine-tuning, of w, or of whole models where nothing is local). Collective."""
    algorithm, problem = setup.algorithm, setup.problem
    tuning = StageCosts()  # of this rank

    def score(client: int, stage: Stage) -> Mapping[str, float]:
        if stage == "global":
            initial = algorithm.init_client(server["shared"], problem.init_local(client))
            return problem.client_metrics(*algorithm.view(server, initial), client)
        shared, local = algorithm.view(server, group.state(client))
        if stage == "personal":
            return problem.client_metrics(shared, local, client)
        return setup.tuned_problem.client_metrics(*_tuned(setup, shared, local, client, tuning), client)

    def scores_of(stage: Stage) -> dict[str, np.ndarray]:
        return _gather(setup, lambda client: score(client, stage))

    stages = STAGES if setup.tuned_fine_tuner is not None else STAGES[:2]
    scores = {stage: scores_of(stage) for stage in stages}
    of_all = _over_ranks(setup, tuning)
    return Stages(scores, {stage: of_all if stage == "tuned" else StageCosts() for stage in stages})


def mean_over_clients(setup: Setup, metric: str, values: np.ndarray) -> float:
    """Return the statistic `mean` of `summarize` alone, which is asked for more often than the others."""
    known, _ = _known(setup, metric, values)
    return float(known.mean()) if len(known) else math.nan


def summarize(setup: Setup, metric: str, values: np.ndarray) -> dict[str, float]:
    """Return the statistics of one metric over clients, (N,) -> {mean, weighted_mean, q10, q50, q90}.

    Weights are the samples that the metric was computed on; clients without such samples, and Byzantine ones, are
    left out.
    """
    known, weight = _known(setup, metric, values)
    if not len(known):
        return dict.fromkeys(STATISTICS, math.nan)
    with np.errstate(invalid="ignore"):  # inf − inf in a run that diverged
        q10, q50, q90 = np.quantile(known, [0.1, 0.5, 0.9])
    weighted = float((known * weight).sum() / weight.sum())
    return {"mean": float(known.mean()), "weighted_mean": weighted, "q10": q10, "q50": q50, "q90": q90}


def _known(setup: Setup, metric: str, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the values that count, and their weights."""
    weights = np.array(setup.problem.metric_weights(metric), dtype=np.float64)
    weights[list(setup.problem.byzantine)] = 0.0
    there = weights > 0
    return values[there], weights[there]


def _over_ranks(setup: Setup, mine: StageCosts) -> StageCosts:
    """Add up what every rank counted; the seconds are those of the slowest. Collective."""
    counts = torch.tensor([mine.shared_gradients, mine.local_gradients], dtype=torch.float64)
    of_shared, of_local = setup.communicator.allreduce(counts, "sum").tolist()
    seconds = setup.communicator.allreduce(torch.tensor([mine.seconds], dtype=torch.float64), "max")
    return StageCosts(of_shared, of_local, float(seconds))


def _tuned(setup: Setup, shared: Params, local: Params, client: int, costs: StageCosts) -> tuple[Params, Params]:
    """`tuned_epochs` times: the fine-tuner applied to every batch of the client's training samples in turn.

    An exact one is applied to all of them at once, since it keeps nothing of the batches before. Adds to `costs`.
    """
    started = time.perf_counter()
    tuner, problem = setup.tuned_fine_tuner, setup.tuned_problem
    assert tuner is not None
    if problem is not setup.problem:
        whole = {**shared, **local}
        shared, local = {}, {name: whole[name] for name in problem.local_names}
    applications = 0
    for epoch in range(setup.tuned_epochs):
        batches = problem.training_epoch(client, epoch)
        if tuner.solves_exactly and batches:
            batches = [problem.join(batches)]
        for data in batches:
            num_samples = len(data["y"]) if "y" in data else 1
            draws = tuner.draws(problem, client, setup.num_rounds + applications, num_samples)
            start = tuner.begin(local, draws) if applications == 0 else local
            local = tuner.tune(problem, shared, start, problem.advance(shared, data), draws)
            applications += 1
            of_shared, of_local = setup.num_tuned_gradients(num_samples)
            costs.shared_gradients += of_shared
            costs.local_gradients += of_local
    if setup.device.type == "cuda":
        torch.cuda.synchronize(setup.device)
    costs.seconds += time.perf_counter() - started
    return shared, local


def _gather(setup: Setup, score: Callable[[int], Mapping[str, float]]) -> dict[str, np.ndarray]:
    """Score the clients of this rank; return {metric: (N,)} on every rank, in client order."""
    rows = [score(client) for client in setup.problem.clients]
    names = list(rows[0])
    mine = torch.tensor([[row[name] for name in names] for row in rows], dtype=torch.float64)
    everyone = setup.communicator.allgather_rows(mine).numpy()
    return {name: np.ascontiguousarray(everyone[:, column]) for column, name in enumerate(names)}
