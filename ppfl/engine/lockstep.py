"""Several runs at once, round by round, each with the bits that it has alone.

Clients of all runs are lanes of one computation (`ppfl.engine.lanes`): what costs time in small runs is not arithmetic
but the number of calls. Runs may differ in their problems' numbers and in what their servers do; what a client does,
and all shapes, must be the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from ppfl.core.content import content
from ppfl.core.exact_sum import exact_sums
from ppfl.core.params import unflatten
from ppfl.engine.lane_scores import data_of_scores, drawn, score_lanes, score_stages_of_lanes
from ppfl.engine.lanes import as_lanes, stack, unstack, values_of
from ppfl.engine.ledger import Ledger, Scored, Status

if TYPE_CHECKING:
    from ppfl.core.types import Params, State
    from ppfl.engine.evaluate import Stages
    from ppfl.engine.setup import Setup


def fits(setup: Setup) -> bool:
    """Say whether a run can be one of several: everybody takes part, alone in a chunk, the mean is taken, and what is
    sent is the same in all runs but for its numbers."""
    return (
        setup.problem.fixed_data
        and not setup.problem.has_samples
        and setup.problem.pure_scores() is not None
        and setup.communicator.size == 1
        and setup.device.type == "cpu"
        and setup.clients_per_chunk == 1
        and setup.cohort.is_full
        and setup.aggregator.linear
        and setup.byzantine is None
        and setup.asynchronous is None
        and setup.compute_times is None
        and setup.tuned_problem is setup.problem
        and not setup.algorithm.branches_on_server
    )


def kind_of(setup: Setup) -> Hashable:
    """Return the same for runs whose clients do the same on tensors of the same shapes and number types.

    The method and the fine-tuner of the first run work for all of them, so all that they hold has to be alike.
    """
    problem, algorithm = setup.problem, setup.algorithm
    settings = content(algorithm, leave_out=algorithm.server_settings)
    data = tuple((name, value.shape, value.dtype) for name, value in problem.data(problem.clients.start, 0).items())
    names = (problem.parameter_names(), problem.local_names)
    lengths = (problem.num_clients, setup.num_rounds, setup.evaluate_every, setup.tuned_epochs)
    return type(problem), settings, content(setup.tuned_fine_tuner), data, names, lengths


class Member:
    """One of the runs: its server and its clients."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        shared = setup.problem.init_shared()
        self.server: State = setup.algorithm.init_server(shared, setup.server_optimizer)
        self.clients = setup.problem.clients
        self.states: list[State] = [
            setup.algorithm.init_client(shared, setup.problem.init_local(client)) for client in self.clients
        ]
        self.ledger = Ledger(setup)

    @property
    def status(self) -> Status:
        """How far it is, and how it ended."""
        return self.ledger.status

    @property
    def group(self) -> Member:
        """Return the clients: this."""
        return self

    def state(self, client: int) -> State:
        """Return the state of one client."""
        return self.states[client - self.clients.start]

    def like(self, client: int) -> State:
        """Return shapes and number types of the state of a client: the state itself."""
        return self.state(client)


class Lockstep:
    """Runs of one kind."""

    def __init__(self, setups: Sequence[Setup]) -> None:
        self.members = [Member(setup) for setup in setups]
        self._algorithm = setups[0].algorithm
        self._problem = setups[0].problem
        self._num_clients = self._problem.num_clients

    def run(self, wants_stop: Callable[[], bool] = lambda: False) -> Iterator[tuple[int, Scored]]:
        """Run all rounds; yield (number of the run, its scores) when a single run would score.

        Runs that are still "running" afterwards were stopped, and what they did is lost.
        """
        setup = self.members[0].setup
        self._gather(self.members)
        yield from self._score(self.members, 0)
        for done in range(1, setup.num_rounds + 1):
            if wants_stop():
                return
            active = self._active
            diverged = self._round(done - 1)
            is_due = done % setup.evaluate_every == 0 or done == setup.num_rounds
            if is_due or diverged:
                yield from self._score(active if is_due else diverged, done, diverged)
            if any(member.status != "running" for member in active):
                self._scatter()
                still = [member for member in active if member.status == "running"]
                if not still:
                    return
                self._gather(still)
        self._scatter()
        for member in self._active:
            member.ledger.status = "complete"

    def _score(
        self, members: Sequence[Member], done: int, not_finite: Sequence[Member] = ()
    ) -> Iterator[tuple[int, Scored]]:
        metrics = score_lanes(self._active, self._servers(), self._states, self._scored_on)
        for member, scores in zip(self._active, metrics, strict=True):
            if member in members:
                scored = member.ledger.scored(done, scores, {}, is_finite=member not in not_finite)
                yield self.members.index(member), scored

    def stages(self, members: Sequence[Member]) -> list[Stages]:
        """Return the scores and costs of the stages of finished runs, as `score_stages` does."""
        self._gather(members)
        return score_stages_of_lanes(members, self._servers(), self._states, self._data, self._scored_on)

    def _gather(self, active: Sequence[Member]) -> None:
        """Make lanes of states and data."""
        self._active = list(active)
        states = [state for member in active for state in member.states]
        self._states = {group: stack([state[group] for state in states]) for group in states[0]}
        self._data = stack([member.setup.problem.data(client, 0) for member in active for client in member.clients])
        self._scored_on = data_of_scores(active)

    def _scatter(self) -> None:
        """Hand the states back to the runs."""
        for position, member in enumerate(self._active):
            lanes = range(position * self._num_clients, (position + 1) * self._num_clients)
            member.states = [{group: unstack(params, lane) for group, params in self._states.items()} for lane in lanes]

    def _servers(self) -> State:
        """Return the states of the servers, one lane for every client."""
        servers = [member.server for member in self._active]
        return {group: self._repeat([server[group] for server in servers]) for group in servers[0]}

    def _round(self, round: int) -> list[Member]:
        """θ, w ← one round of all runs; return those whose aggregate is not finite, and whose θ stays as it was."""
        active, started = self._active, time.perf_counter()
        messages = [member.setup.algorithm.downlink(member.server, round) for member in active]
        draws = drawn(active, lambda problem, client: self._algorithm.draws(problem, client, round, 1))
        uplinks, self._states = self._algorithm.client(
            self._problem, self._repeat(messages), self._states, self._data, draws
        )
        likes = [member.setup.algorithm.uplink_like(member.server) for member in active]
        for like in likes:
            if uplinks.keys() != like.keys():
                raise ValueError(f"the uplink has {', '.join(uplinks)}, announced are {', '.join(like)}")
        diverged = []
        for member, message, like, aggregate in zip(active, messages, likes, self._aggregate(uplinks), strict=True):
            setup = member.setup
            combined = unflatten(aggregate, like) if like else {}
            if bool(torch.isfinite(aggregate).all()):
                member.server = setup.algorithm.server_of_cohort(
                    member.server, combined, setup.server_optimizer, round, 1.0
                )
            else:
                diverged.append(member)
            member.ledger.count_clients(1, round, self._num_clients)
            member.ledger.count_messages(message, combined, self._num_clients)
        seconds = (time.perf_counter() - started) / len(active)
        for member in active:
            member.ledger.costs.seconds += seconds
        return diverged

    def _repeat(self, messages: Sequence[Params]) -> Params:
        """Give every client the message of its run; all have the same names."""
        for message in messages:
            if message.keys() != messages[0].keys():
                raise ValueError(f"one run has {', '.join(message)}, another one {', '.join(messages[0])}")
        stacked = {name: torch.stack([message[name] for message in messages]) for name in messages[0]}
        return {name: as_lanes(values.repeat_interleave(self._num_clients, dim=0)) for name, values in stacked.items()}

    def _aggregate(self, uplinks: Params) -> torch.Tensor:
        """Return Σ_m p_m x_m of every run, (R, D)."""
        if not uplinks:
            return torch.zeros(len(self._active), 0, dtype=torch.float64)
        values = [values_of(value) for value in uplinks.values()]
        rows = torch.cat([value.reshape(len(value), -1) for value in values], dim=1).to(torch.float64)
        weights = torch.tensor([member.setup.client_weights for member in self._active], dtype=torch.float64)
        terms = rows.reshape(len(self._active), self._num_clients, -1) * weights.unsqueeze(-1)
        return exact_sums(terms) / weights.sum(dim=1, keepdim=True)
