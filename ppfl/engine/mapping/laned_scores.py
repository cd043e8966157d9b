"""Scores of the clients of one run or of several as lanes, with the bits that they have client by client."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch

from ppfl.engine.ledger import StageCosts
from ppfl.engine.mapping.lanes import as_lanes, stack, values_of
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
    """Scores the runs of a laned mapping; servers are given as values (R, …), states as lanes of clients."""

    def __init__(self, laned: Laned, scores: Sequence[PureScores]) -> None:
        self._laned = laned
        self._of_runs = scores
        data = [of_run.scored_on(client) for of_run in scores for client in laned.clients]
        # where clients are scored on the very tensors that they train on, what was made ready of these serves as well
        self._data: Data = laned.data if _are_those_of(laned, data) else stack(data)
        self._references: Params = stack([of_run.reference for of_run in scores])
        """A lane a run."""

    def of_clients(self, servers: State, states: State) -> Rows:
        """Return the scores of what clients would deploy now."""
        return self._of_clients(self._sent(servers), states)

    def of_rounds(self, servers: State, states: State) -> tuple[Rows, Rows]:
        """Return the same, and what the problem of every run says of θ, (R,) or (R, C); where one process has all
        clients."""
        sent = self._sent(servers)
        of_clients = self._of_clients(sent, states)
        gradients = self._of_runs[0].gradient(sent.shared, sent.data)
        norms = self._rows(torch.linalg.vector_norm(gradients))
        means = exact_sums(values_of(gradients).reshape(*norms.shape, -1)) / self._laned.setups[0].roles.num_honest
        shared = {name: as_lanes(value) for name, value in servers["shared"].items()}
        of_shared = self._of_runs[0].of_shared(shared, as_lanes(means), as_lanes(norms), self._references)
        return of_clients, {name: values_of(value) for name, value in of_shared.items()}

    def of_stages(self, servers: State, states: State) -> tuple[dict[str, Rows], dict[str, StageCosts]]:
        """Return the scores of the stages, and what each run has cost in them on this rank."""
        setup = self._laned.setups[0]
        sent = self._sent(servers)
        deployed = {
            "global": self._laned.algorithm.view(sent.servers, self._initial(sent)),
            "personal": self._laned.algorithm.view(sent.servers, states),
        }
        costs = {stage: StageCosts() for stage in deployed}
        if setup.tuned_fine_tuner is not None:
            started = time.perf_counter()
            costs["tuned"] = StageCosts()
            deployed["tuned"] = self._tuned(setup.tuned_fine_tuner, *deployed["personal"], costs["tuned"])
            costs["tuned"].seconds = (time.perf_counter() - started) / len(self._laned.setups)
        return {stage: self._score(sent, *params) for stage, params in deployed.items()}, costs

    def _sent(self, servers: State) -> _Sent:
        of_clients = {group: self._laned.repeat(params) for group, params in servers.items()}
        return _Sent(of_clients, self._of_runs[0].at(of_clients["shared"], self._data))

    def _initial(self, sent: _Sent) -> State:
        """Return the states of clients before their first round, if they began at the θ of now."""
        laned = self._laned
        local = stack([problem.objective.init_local(client) for problem in laned.problems for client in laned.clients])
        return laned.algorithm.init_client(sent.shared, local)

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

    def _of_clients(self, sent: _Sent, states: State) -> Rows:
        return self._score(sent, *self._laned.algorithm.view(sent.servers, states))

    def _score(self, sent: _Sent, shared: Params, local: Params) -> Rows:
        # what depends on θ is known where clients deploy the one of the server
        data = sent.data if shared is sent.shared else self._data
        scores = self._of_runs[0].of_client(shared, local, data)
        return {name: self._rows(value) for name, value in scores.items()}

    def _rows(self, lanes: torch.Tensor) -> torch.Tensor:
        """Return a number for every client as (R, C)."""
        return values_of(lanes).to(torch.float64).reshape(len(self._laned.setups), -1)


def _are_those_of(laned: Laned, data: Sequence[Data]) -> bool:
    """Say whether data are the tensors that clients train on, in their order."""
    trained_on = [problem.client_data.data(client, 0) for problem in laned.problems for client in laned.clients]
    return all(
        scored.keys() == trained.keys() and all(value is trained[name] for name, value in scored.items())
        for scored, trained in zip(data, trained_on, strict=True)
    )


@dataclass(frozen=True)
class _Sent:
    """Servers as lanes, one for every client."""

    servers: State
    data: Data
    """What scores are computed on, with what they need of θ."""

    @property
    def shared(self) -> Params:
        """θ."""
        return self.servers["shared"]
