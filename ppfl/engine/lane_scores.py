"""Scores of several runs at once, each as `ppfl.engine.evaluate.score_round` gives them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from ppfl.core.exact_sum import exact_sums
from ppfl.engine.evaluate import Stages, mean_over_clients
from ppfl.engine.lanes import stack, values_of
from ppfl.engine.ledger import StageCosts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from ppfl.core.method import FineTuner
    from ppfl.core.problem import Problem, PureScores
    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.engine.evaluate import Stage
    from ppfl.engine.lockstep import Member


def data_of_scores(members: Sequence[Member]) -> Data:
    """Return what scores are computed on, one lane for every client of every run."""
    return stack([_parts(member).data(client) for member in members for client in member.clients])


def score_lanes(
    members: Sequence[Member], servers: State, states: State, data: Data
) -> list[dict[str, float | np.ndarray]]:
    """Return the scores of every run; `servers` and `states` have a lane for every client of every run."""
    setup = members[0].setup
    parts = _parts(members[0])
    of_clients = _of_clients(members, *setup.algorithm.view(servers, states), data)
    gradients = parts.gradient(servers["shared"], data)
    norms = _rows(members, torch.linalg.vector_norm(gradients))
    means = exact_sums(values_of(gradients).reshape(*norms.shape, -1)) / setup.problem.num_honest
    scores: list[dict[str, float | np.ndarray]] = []
    for row, member in enumerate(members):
        mine: dict[str, float | np.ndarray] = {
            name: mean_over_clients(member.setup, name, values[row]) for name, values in of_clients.items()
        }
        of_shared = _parts(member).of_shared(member.server["shared"], means[row].clone(), norms[row])
        for name, value in of_shared.items():
            mine[name] = float(value) if value.ndim == 0 else value.numpy().copy()
        scores.append(mine)
    return scores


def score_stages_of_lanes(
    members: Sequence[Member], servers: State, states: State, data: Data, scored_on: Data
) -> list[Stages]:
    """Return the scores and costs of the stages of every run; see `score_stages`. Seconds are divided by runs."""
    algorithm = members[0].setup.algorithm
    initial = [
        member.setup.algorithm.init_client(member.server["shared"], member.setup.problem.init_local(client))
        for member in members
        for client in member.clients
    ]
    fresh = {group: stack([state[group] for state in initial]) for group in initial[0]}
    deployed: dict[Stage, tuple[Params, Params]] = {
        "global": algorithm.view(servers, fresh),
        "personal": algorithm.view(servers, states),
    }
    started = time.perf_counter()
    if (tuner := members[0].setup.tuned_fine_tuner) is not None:
        deployed["tuned"] = _tuned(members, tuner, *deployed["personal"], data)
    seconds = (time.perf_counter() - started) / len(members)
    scores = {stage: _of_clients(members, *params, scored_on) for stage, params in deployed.items()}
    return [
        Stages(
            {stage: {name: values[row].copy() for name, values in mine.items()} for stage, mine in scores.items()},
            {stage: _costs(member, seconds) if stage == "tuned" else StageCosts() for stage in scores},
        )
        for row, member in enumerate(members)
    ]


def _costs(member: Member, seconds: float) -> StageCosts:
    """Return what tuning one run has cost: a call of the fine-tuner a client and epoch."""
    num_calls = member.setup.problem.num_clients * member.setup.tuned_epochs
    of_shared, of_local = member.setup.num_tuned_gradients(1)
    return StageCosts(num_calls * of_shared, num_calls * of_local, seconds)


def drawn(members: Sequence[Member], draw: Callable[[Problem, int], Draws]) -> Draws:
    """Draw for every client of every run; runs that share a problem share what is drawn."""
    of_problems: dict[int, list[Draws]] = {}
    for member in members:
        problem = member.setup.problem
        if id(problem) not in of_problems:
            of_problems[id(problem)] = [draw(problem, client) for client in problem.clients]
    return stack([one for member in members for one in of_problems[id(member.setup.problem)]])


def _tuned(
    members: Sequence[Member], tuner: FineTuner, shared: Params, local: Params, data: Data
) -> tuple[Params, Params]:
    """`tuned_epochs` times: the fine-tuner applied to the data, which are whole where there are no samples."""
    setup = members[0].setup
    advanced = setup.problem.advance(shared, data)
    for epoch in range(setup.tuned_epochs):
        moment = setup.num_rounds + epoch
        draws = drawn(members, lambda problem, client, moment=moment: tuner.draws(problem, client, moment, 1))  # type: ignore[misc]
        start = tuner.begin(local, draws) if epoch == 0 else local
        local = tuner.tune(setup.problem, shared, start, advanced, draws)
    return shared, local


def _of_clients(members: Sequence[Member], shared: Params, local: Params, data: Data) -> dict[str, np.ndarray]:
    """Return {metric: (R, N)}."""
    scores = _parts(members[0]).of_client(shared, local, data)
    return {name: _rows(members, value).numpy() for name, value in scores.items()}


def _rows(members: Sequence[Member], lanes: torch.Tensor) -> torch.Tensor:
    """Return a number for every client as (R, N), float64."""
    return values_of(lanes).to(torch.float64).reshape(len(members), -1)


def _parts(member: Member) -> PureScores:
    parts = member.setup.problem.pure_scores()
    assert parts is not None
    return parts
