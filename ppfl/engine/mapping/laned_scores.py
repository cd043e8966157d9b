"""Scores of the clients of one run or of several as lanes, with the bits that they have client by client."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeAlias

import torch

from ppfl.engine.ledger import StageCosts
from ppfl.engine.mapping.lanes import stack, values_of
from ppfl.engine.mapping.mapping import stack_states
from ppfl.rows.exact_sum import exact_sums

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ppfl.core.types import Data, Params, State
    from ppfl.engine.mapping.laned import Laned
    from ppfl.interfaces.method import FineTuner
    from ppfl.interfaces.scores import PureScores

Rows: TypeAlias = dict[str, torch.Tensor]
"""{metric: (R, C)}, float64."""


class LanedScores:
    """Scores the runs of a laned mapping; servers and states are given one for every run, states as (C, …)."""

    def __init__(self, laned: Laned, scores: Sequence[PureScores]) -> None:
        self._laned = laned
        self._of_runs = scores
        self._data: Data = stack([of_run.scored_on(client) for of_run in scores for client in laned.clients])

    def of_clients(self, servers: Sequence[State], states: Sequence[State]) -> Rows:
        """Return the scores of what clients would deploy now."""
        return self._score(*self._deployed(servers, states))

    def of_shared(self, servers: Sequence[State]) -> list[dict[str, torch.Tensor]]:
        """Return what the problem of every run says of θ; where one process has all clients."""
        shared = self._laned.repeat([server["shared"] for server in servers])
        gradients = self._of_runs[0].gradient(shared, self._data)
        norms = self._rows(torch.linalg.vector_norm(gradients))
        means = exact_sums(values_of(gradients).reshape(*norms.shape, -1)) / self._laned.setups[0].roles.num_honest
        return [
            of_run.of_shared(server["shared"], means[run].clone(), norms[run])
            for run, (of_run, server) in enumerate(zip(self._of_runs, servers, strict=True))
        ]

    def of_stages(
        self, servers: Sequence[State], states: Sequence[State]
    ) -> tuple[dict[str, Rows], dict[str, StageCosts]]:
        """Return the scores of the stages, and what each run has cost in them on this rank."""
        setup = self._laned.setups[0]
        deployed = {
            "global": self._deployed(servers, [self._initial(run, server) for run, server in enumerate(servers)]),
            "personal": self._deployed(servers, states),
        }
        costs = {stage: StageCosts() for stage in deployed}
        if setup.tuned_fine_tuner is not None:
            started = time.perf_counter()
            costs["tuned"] = StageCosts()
            deployed["tuned"] = self._tuned(setup.tuned_fine_tuner, *deployed["personal"], costs["tuned"])
            costs["tuned"].seconds = (time.perf_counter() - started) / len(servers)
        return {stage: self._score(*params) for stage, params in deployed.items()}, costs

    def _initial(self, run: int, server: State) -> State:
        objective, algorithm = self._laned.problems[run].objective, self._laned.setups[run].algorithm
        initial = (objective.init_local(client) for client in self._laned.clients)
        return stack_states([algorithm.init_client(server["shared"], local) for local in initial])

    def _deployed(self, servers: Sequence[State], states: Sequence[State]) -> tuple[Params, Params]:
        of_servers = {group: self._laned.repeat([server[group] for server in servers]) for group in servers[0]}
        return self._laned.algorithm.view(of_servers, self._laned.gather(states))

    def _tuned(self, tuner: FineTuner, shared: Params, local: Params, costs: StageCosts) -> tuple[Params, Params]:
        """`tuned_epochs` times: the fine-tuner applied to the data, which are whole where there are no samples."""
        laned, setup = self._laned, self._laned.setups[0]
        advanced = laned.objective.advance(shared, laned.data)
        for epoch in range(setup.tuned_epochs):
            later_round = setup.num_rounds + epoch
            draws = laned.drawn(lambda objective, client, at=later_round: tuner.draws(objective, client, at, 1))  # type: ignore[misc]
            start = tuner.begin(local, draws) if epoch == 0 else local
            local, num_gradients = tuner.tune(laned.objective, shared, start, advanced, draws)
            costs.count(setup, num_gradients, laned.num_clients)
        return shared, local

    def _score(self, shared: Params, local: Params) -> Rows:
        scores = self._of_runs[0].of_client(shared, local, self._data)
        return {name: self._rows(value) for name, value in scores.items()}

    def _rows(self, lanes: torch.Tensor) -> torch.Tensor:
        """Return a number for every client as (R, C)."""
        return values_of(lanes).to(torch.float64).reshape(len(self._laned.setups), -1)
