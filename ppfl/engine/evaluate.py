"""Scoring, the same for every method: through `view`, over all clients, in client order."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import torch

from ppfl.engine.history import kept_of_clients
from ppfl.engine.ledger import StageCosts
from ppfl.engine.mapping.laned_servers import stacked
from ppfl.engine.mapping.mapping import NOT_FOR_SEVERAL
from ppfl.engine.of_objective import of_objective
from ppfl.engine.spent import shared
from ppfl.engine.tuning import applications
from ppfl.interfaces.advanced_client import KEPT_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ppfl.core.types import Params, State
    from ppfl.engine.mapping.laned_scores import LanedScores
    from ppfl.engine.run import Run
    from ppfl.engine.setup import Setup
    from ppfl.interfaces.advanced_client import AdvancedClient

Found = TypeVar("Found")

STATISTICS = ("mean", "weighted_mean", "q10", "q50", "q90")


@dataclass(frozen=True)
class Stages:
    """What the final stages found, and what their training has cost."""

    scores: dict[str, dict[str, np.ndarray]]
    """{stage: {metric: (M,)}}, of the stages global, personal and, where something is tuned, tuned."""
    costs: dict[str, StageCosts]
    summary: dict[str, np.ndarray]
    """{metric: (stage, statistic)}, see STATISTICS."""
    newcomers: dict[str, np.ndarray] = field(default_factory=dict)
    """{metric: (M, steps)} of the clients that are held out, none where nobody is."""

    @property
    def cost_arrays(self) -> dict[str, np.ndarray]:
        """Return the costs as arrays (stage,)."""
        names = [cost.name for cost in fields(StageCosts)]
        return {name: np.array([getattr(cost, name) for cost in self.costs.values()]) for name in names}


class Together(Protocol):
    """Runs that are computed together, whose states come to them when they are settled."""

    @property
    def lanes(self) -> tuple[State, State]:
        """Return their servers, (R, …), and their clients' states as lanes."""
        ...

    def settle(self) -> None:
        """Bring servers, states and counts to the runs."""
        ...


def score_rounds(runs: Sequence[Run], round: int) -> list[dict[str, float | np.ndarray]]:
    """Return the scores of every run after `round` rounds: means over clients, and what the problem says of θ.

    Arrays have shape (M,), one number a client. Collective.
    """
    columns = score_columns(runs, round)
    of_runs = zip(*(values.tolist() if values.ndim == 1 else values for values in columns.values()), strict=True)
    return [dict(zip(columns, of_run, strict=True)) for of_run in of_runs]


def score_columns(runs: Sequence[Run], round: int, together: Together | None = None) -> dict[str, np.ndarray]:
    """Return the same as columns, (R,) or (R, M). Collective."""
    with shared([run.ledger.spent for run in runs], "scoring"):
        return _score_rounds(runs, round, together)


def _score_rounds(runs: Sequence[Run], round: int, together: Together | None) -> dict[str, np.ndarray]:
    setups, found = [run.setup for run in runs], None
    if setups[0].communicator.size == 1:
        found = _at_once(runs, lambda lanes: lanes.of_rounds(*(together.lanes if together else _lanes(runs))))
    if found is None:
        if together is not None:
            together.settle()
        alone = [_score_alone(run, round) for run in runs]
        return {name: np.array([of_run[name] for of_run in alone]) for name in alone[0]}
    of_clients, of_shared = found
    single = {name: values.numpy() for name, values in of_clients.items()}
    columns = {name: means_over_clients(setups, name, values) for name, values in single.items()}
    columns |= kept_of_clients(setups[0], round, single)
    scalars = {name: values.to(torch.float64) for name, values in of_shared.items() if values.ndim == 1}
    arrays = {name: values for name, values in of_shared.items() if values.ndim > 1}
    return {**columns, **{name: values.numpy() for name, values in (scalars | arrays).items()}}


def _score_alone(run: Run, round: int) -> dict[str, float | np.ndarray]:
    setup = run.setup
    of_clients = gather(setup, _client_scores(run, round))
    of_shared = setup.problem.scores.shared_metrics(run.server["shared"])
    scores: dict[str, float | np.ndarray] = {
        name: mean_over_clients(setup, name, values) for name, values in of_clients.items()
    }
    scores.update(kept_of_clients(setup, round, of_clients))
    for name, value in of_shared.items():
        scores[name] = float(value) if value.ndim == 0 else value.cpu().numpy().copy()
    return {**scores, **of_objective(run)} if setup.scores_objective else scores


def _lanes(runs: Sequence[Run]) -> tuple[State, State]:
    laned = runs[0].group.laned
    assert laned is not None
    return stacked([run.server for run in runs]), laned.gather([run.group.lanes for run in runs])


def _at_once(runs: Sequence[Run], score: Callable[[LanedScores], Found]) -> Found | None:
    """Return what all clients of the runs score as lanes; None where they are no lanes, or a function has no lanes."""
    laned = runs[0].group.laned
    if laned is None or laned.scores is None:
        return None
    try:
        return score(laned.scores)
    except NOT_FOR_SEVERAL:  # a fine-tuner of the final stage, say; a mistake is raised again, one by one
        return None


def _client_scores(run: Run, round: int) -> dict[str, torch.Tensor]:
    """Return {metric: (C,)} of the clients of this rank."""
    rows = _at_once([run], lambda lanes: lanes.of_clients(*_lanes([run])))
    return _one_by_one(run, round) if rows is None else {name: values[0] for name, values in rows.items()}


def _one_by_one(run: Run, round: int) -> dict[str, torch.Tensor]:
    """Score what every client of this rank deploys."""
    scores, view = run.setup.problem.scores, run.setup.algorithm.view

    def of_client(client: int) -> Mapping[str, float]:
        deployed = view(run.server, run.group.state(client)) if scores.is_scored(client) else ({}, {})
        advanced = scores.advanced(client)
        found = scores.round_metrics_of(*deployed, advanced, round)
        # the final stages begin where the rounds have ended
        if round == run.setup.num_rounds and _fits(run, advanced):
            run.advanced[client] = advanced
        return found

    return columns_of(run.group.clients, _of_each(run, of_client))


def _fits(run: Run, advanced: AdvancedClient) -> bool:
    return advanced.kept_bytes + sum(one.kept_bytes for one in run.advanced.values()) <= KEPT_BYTES


def _of_each(run: Run, score: Callable[[int], Found]) -> dict[int, Found]:
    """Score the clients of this rank that are scored, in their order; where none is, one by its NaN speaks for all."""
    clients = run.group.clients
    return {client: score(client) for client in run.setup.problem.scores.scored_clients(clients) or clients[:1]}


def score_stages(runs: Sequence[Run]) -> list[Stages]:
    """Score `global` (θ with the client's initial w), `personal` (the client's own w) and `tuned` (after a final
    fine-tuning, of w, or of whole models where nothing is local) of every run. Collective."""
    with shared([run.ledger.spent for run in runs], "final_stages"):
        return _score_stages(runs)


def _score_stages(runs: Sequence[Run]) -> list[Stages]:
    setup, found = runs[0].setup, None
    if setup.tuned_problem is setup.problem:
        found = _at_once(runs, lambda lanes: lanes.of_stages(*_lanes(runs)))
    if found is not None:
        rows, costs = found
        of_runs = [
            ({stage: {name: values[number] for name, values in of.items()} for stage, of in rows.items()}, costs)
            for number in range(len(runs))
        ]
    else:
        of_runs = [_stages_one_by_one(run) for run in runs]
    everywhere = [_over_ranks(run.setup, scores, costs) for run, (scores, costs) in zip(runs, of_runs, strict=True)]
    summaries = _summaries([run.setup for run in runs], [scores for scores, _ in everywhere])
    return [Stages(*found, summary) for found, summary in zip(everywhere, summaries, strict=True)]


def _stages_one_by_one(run: Run) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, StageCosts]]:
    # client by client: what is advanced for one stage serves the others, and that of one client is kept at a time
    tuning = StageCosts()
    of_clients = _of_each(run, lambda client: _stages_of(run, client, tuning))
    scores = {
        stage: columns_of(run.group.clients, {client: found[stage] for client, found in of_clients.items()})
        for stage in next(iter(of_clients.values()))
    }
    return scores, {stage: tuning if stage == "tuned" else StageCosts() for stage in scores}


def _stages_of(run: Run, client: int, tuning: StageCosts) -> dict[str, Mapping[str, float]]:
    """Return {stage: scores} of one client of this rank; adds to what tuning has cost."""
    setup, server = run.setup, run.server
    algorithm, problem, tuned_problem = setup.algorithm, setup.problem, setup.tuned_problem
    scores = problem.scores
    advanced = run.advanced.pop(client, None) or scores.advanced(client)
    stages = ("global", "personal") if setup.tuned_fine_tuner is None else ("global", "personal", "tuned")
    if not scores.is_scored(client):
        return dict.fromkeys(stages, scores.metrics_of({}, {}, advanced))
    initial = algorithm.init_client(server["shared"], problem.objective.init_local(client))
    deployed = algorithm.view(server, run.group.state(client))
    # first what is at the θ of the last round, since another one takes its place; stages keep their order
    found: dict[str, Mapping[str, float]] = {"global": {}, "personal": scores.metrics_of(*deployed, advanced)}
    if "tuned" in stages:
        of_tuned = advanced if tuned_problem is problem else tuned_problem.scores.advanced(client)
        tuned = _tuned(setup, *deployed, of_tuned, tuning)
        found["tuned"] = tuned_problem.scores.metrics_of(*tuned, of_tuned)
    found["global"] = scores.metrics_of(*algorithm.view(server, initial), advanced)
    return found


def means_over_clients(setups: Sequence[Setup], metric: str, values: np.ndarray) -> np.ndarray:
    """Return `mean_over_clients` of several runs, (R, M) -> (R,): the bits of one at a time."""
    if not all(_all_count(setup, metric) for setup in setups):
        return np.array(
            [mean_over_clients(setup, metric, of_run) for setup, of_run in zip(setups, values, strict=True)]
        )
    means: np.ndarray = np.ascontiguousarray(values).mean(axis=1)
    return means


def _all_count(setup: Setup, metric: str) -> bool:
    return not setup.not_counted and min(setup.problem.scores.metric_weights(metric), default=0) > 0


def mean_over_clients(setup: Setup, metric: str, values: np.ndarray) -> float:
    """Return the statistic `mean` of `summarize` alone, which is asked for more often than the others."""
    known, _ = _known(setup, metric, values)
    return float(known.mean()) if len(known) else math.nan


def summarize(setup: Setup, metric: str, values: np.ndarray) -> dict[str, np.ndarray]:
    """Return the statistics of one metric over clients, (…, M) -> {mean, weighted_mean, q10, q50, q90}, each (…).

    Weights are the samples that the metric was computed on; clients without such samples, and Byzantine ones, are
    left out.
    """
    return statistics(*_known(setup, metric, values))


def statistics(known: np.ndarray, weight: np.ndarray) -> dict[str, np.ndarray]:
    """Return the same of the values that count, (…, counted), and their weights, (counted,)."""
    if not len(weight):
        return dict.fromkeys(STATISTICS, np.full(known.shape[:-1], math.nan))
    with np.errstate(invalid="ignore"):  # inf − inf in a run that diverged
        q10, q50, q90 = np.quantile(known, [0.1, 0.5, 0.9], axis=-1)
    weighted = (known * weight).sum(axis=-1) / weight.sum()
    return {"mean": known.mean(axis=-1), "weighted_mean": weighted, "q10": q10, "q50": q50, "q90": q90}


def _summaries(
    setups: Sequence[Setup], scores: Sequence[Mapping[str, Mapping[str, np.ndarray]]]
) -> list[dict[str, np.ndarray]]:
    """Return {metric: (stage, statistic)} of {stage: {metric: (M,)}} of every run."""
    summaries: list[dict[str, np.ndarray]] = [{} for _ in setups]
    for metric in next(iter(scores[0].values())):
        values = np.array([[of_stage[metric] for of_stage in of_run.values()] for of_run in scores])
        # quantiles take long to begin with: those of all runs are taken at once where the same clients count as much
        if all(_weights(setup, metric) == _weights(setups[0], metric) for setup in setups):
            of_runs = list(_statistics(setups[0], metric, values))
        else:
            of_runs = [_statistics(setup, metric, of_run) for setup, of_run in zip(setups, values, strict=True)]
        for summary, of_run in zip(summaries, of_runs, strict=True):
            summary[metric] = of_run
    return summaries


def _statistics(setup: Setup, metric: str, values: np.ndarray) -> np.ndarray:
    """(…, M) -> (…, statistic)."""
    return np.stack(list(summarize(setup, metric, values).values()), axis=-1)


def _weights(setup: Setup, metric: str) -> tuple[frozenset[int], tuple[float, ...]]:
    return setup.not_counted, tuple(setup.problem.scores.metric_weights(metric))


def _known(setup: Setup, metric: str, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the values that count, (…, counted), and their weights, (counted,)."""
    there, weights = setup.counting(metric)
    # `compress` keeps the numbers of a row side by side, which decides the order in which they are added up
    return values.compress(there, axis=-1), weights


def _over_ranks(
    setup: Setup, scores: Mapping[str, Mapping[str, torch.Tensor]], costs: Mapping[str, StageCosts]
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, StageCosts]]:
    """Gather what every rank scored; add up what it counted. The seconds are those of the slowest. Collective."""
    of_all = {stage: gather(setup, of_stage) for stage, of_stage in scores.items()}
    return of_all, {stage: total_costs(setup, cost) if stage == "tuned" else cost for stage, cost in costs.items()}


def total_costs(setup: Setup, mine: StageCosts) -> StageCosts:
    """Add up what ranks have counted; the seconds are those of the slowest. Collective."""
    if setup.communicator.size == 1:
        return replace(mine)
    counts = torch.tensor([mine.shared_gradients, mine.local_gradients], dtype=torch.float64)
    of_shared, of_local = setup.communicator.allreduce(counts, "sum").tolist()
    seconds = setup.communicator.allreduce(torch.tensor([mine.seconds], dtype=torch.float64), "max")
    return StageCosts(of_shared, of_local, float(seconds))


def _tuned(
    setup: Setup, shared: Params, local: Params, advanced: AdvancedClient, costs: StageCosts
) -> tuple[Params, Params]:
    """`tuned_epochs` times: the fine-tuner applied to every batch of the client's training samples in turn.

    Adds to `costs`.
    """
    started = time.perf_counter()
    tuner, problem = setup.tuned_fine_tuner, setup.tuned_problem
    assert tuner is not None
    if problem is not setup.problem:
        whole = {**shared, **local}
        shared, local = {}, {name: whole[name] for name in problem.local_names}
    epochs = range(setup.tuned_epochs)
    for tuned in applications(tuner, problem, shared, local, advanced, epochs, setup.num_rounds):
        local = tuned.local
        costs.count(setup, tuned.num_gradients)
    if setup.device.type == "cuda":
        torch.cuda.synchronize(setup.device)
    costs.seconds += time.perf_counter() - started
    return shared, local


def columns_of(
    clients: range, rows: Mapping[int, Mapping[str, float]], names: Iterable[str] | None = None
) -> dict[str, torch.Tensor]:
    """Return {metric: (C,)} of some of the clients, with NaN for the others. names: where there may be no row."""
    columns = {}
    where = torch.tensor(list(rows), dtype=torch.int64) - clients.start
    for name in next(iter(rows.values())) if names is None else names:
        columns[name] = torch.full((len(clients),), math.nan, dtype=torch.float64)
        columns[name][where] = torch.tensor([row[name] for row in rows.values()], dtype=torch.float64)
    return columns


def gather(setup: Setup, mine: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """From {metric: (C,)} on every rank to {metric: (M,)} in client order. Collective."""
    if setup.communicator.size == 1:
        return {name: values.numpy() for name, values in mine.items()}
    everyone = setup.communicator.allgather_rows(torch.stack(list(mine.values()), dim=1)).numpy()
    return {name: np.ascontiguousarray(everyone[:, column]) for column, name in enumerate(mine)}
