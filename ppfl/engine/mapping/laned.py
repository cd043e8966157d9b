"""Clients as lanes of one computation: of one run, or of several runs whose clients do the same.

What costs time in small runs is not arithmetic but the number of calls. Every client keeps the bits that it has alone.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import torch

from ppfl.core.content import content
from ppfl.engine.mapping.laned_scores import LanedScores
from ppfl.engine.mapping.lanes import as_lanes, stack, state_lanes, state_values, take, values_of
from ppfl.engine.mapping.loop import Loop
from ppfl.engine.mapping.mapping import NOT_FOR_SEVERAL, Mapping, UplinkRows, member, stack_states
from ppfl.engine.participants import Downlink
from ppfl.interfaces.client_data import Statistics
from ppfl.interfaces.scores import PureScores

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from ppfl.core.types import Data, Draws, Params, State
    from ppfl.engine.setup import Setup
    from ppfl.interfaces.method import Report
    from ppfl.interfaces.objective import Objective

_known: dict[Hashable, bool] = {}
"""Whether lanes serve clients that do the same on data of the same kind."""


class Laned(Mapping):
    """All clients of this rank are one chunk, and all of them take part."""

    def __init__(self, *setups: Setup) -> None:
        super().__init__(setups[0])
        self.setups = setups
        self.problems = [setup.problem for setup in setups]
        self.clients = setups[0].problem.client_data.clients
        self.num_clients = len(self.clients)
        """C, of each run on this rank."""
        self.data: Data = stack(
            [problem.client_data.data(client, 0) for problem in self.problems for client in self.clients]
        )
        self._gathered: list[State] = []
        self._lanes: State = {}

    @classmethod
    def can(cls, setup: Setup) -> bool:
        """Say whether data are statistics that never change, everybody takes part in rounds, and lanes give the bits
        of a loop."""
        data = setup.problem.client_data
        return (
            isinstance(data, Statistics)
            and data.fixed_data
            and setup.device.type == "cpu"
            and setup.clients_per_chunk == 1
            and setup.client_state == "device"
            and setup.asynchronous is None
            and len(setup.cohort.eligible) == data.num_clients
            and setup.cohort.is_full
            and _serves(setup)
        )

    def __call__(
        self, downlink: Downlink, chunk: range, members: Sequence[int], states: State, round: int
    ) -> tuple[list[UplinkRows], State]:
        """See Mapping; for one run."""
        try:
            uplinks, lanes, report = self.step(self._messages(downlink), self.gather([states]), round)
        except NOT_FOR_SEVERAL:  # what the first round has not shown; a mistake is raised by the loop as well
            rows, states = Loop(self.setup).rows(downlink, self.clients, states, round)
            return [rows], states
        return [UplinkRows(self.clients, uplinks, self.reports(report)[0])], self.of_runs(lanes)[0]

    def step(self, messages: Params, states: State, round: int) -> tuple[Params, State, Report]:
        """Return what the clients of all runs send and their new states, values (L, …), and what they tell.

        Messages and states are lanes. Raises what torch raises for what has no lanes.
        """
        draws = self.drawn(lambda objective, client: self.algorithm.draws(objective, client, round, 1))
        algorithm = self.setup.algorithm_at(round)
        step = algorithm.client(self.objective, messages, states, self.data, draws)
        return {name: values_of(value) for name, value in step.uplink.items()}, state_values(step.state), step.report

    def of_runs(self, lanes: State) -> list[State]:
        """Return the states of every run, (C, …), of values (L, …); `gather` knows them again."""
        self._lanes = lanes
        self._gathered = [
            {group: self._of_run(params, run) for group, params in lanes.items()} for run in range(len(self.problems))
        ]
        return self._gathered

    def gather(self, states: Sequence[State]) -> State:
        """Return the states of all runs as lanes; without a copy where they are those of last time."""
        known = len(states) == len(self._gathered)
        if not known or any(one is not other for one, other in zip(states, self._gathered, strict=True)):
            self._lanes = {
                group: {name: torch.cat([state[group][name] for state in states]) for name in params}
                for group, params in states[0].items()
            }
            self._gathered = list(states)
        return state_lanes(self._lanes)

    def _messages(self, downlink: Downlink) -> Params:
        """Return what every client of one run is sent."""
        if downlink.to_all is not None:
            return self.repeat({name: value.unsqueeze(0) for name, value in downlink.to_all.items()})
        own = [downlink.to(client) for client in self.clients]
        if any(message.keys() != own[0].keys() for message in own):
            raise ValueError("messages of different names are no lanes")
        return {name: as_lanes(torch.stack([message[name] for message in own])) for name in own[0]}

    def repeat(self, messages: Params) -> Params:
        """Give every client the message of its run, (R, …) to lanes of clients."""
        return {name: as_lanes(value.repeat_interleave(self.num_clients, dim=0)) for name, value in messages.items()}

    def drawn(self, draw: Callable[[Objective, int], Draws]) -> Draws:
        """Draw for every client of every run; runs whose objectives are equal share what is drawn."""
        drawn = [draw(self.problems[run].objective, client) for run in self._unlike for client in self.clients]
        return take(stack(drawn), self._place_of_draw)

    @cached_property
    def _unlike(self) -> list[int]:
        """Runs with unlike objectives, one of each kind."""
        return list({objective: run for run, objective in reversed(list(enumerate(self._objectives)))}.values())

    @cached_property
    def _place_of_draw(self) -> torch.Tensor:
        """For every lane the number of the draw that is its own."""
        first = {self._objectives[run]: self.num_clients * number for number, run in enumerate(self._unlike)}
        starts = torch.tensor([first[objective] for objective in self._objectives])
        return (starts[:, None] + torch.arange(self.num_clients)).flatten()

    @property
    def _objectives(self) -> list[Objective]:
        return [problem.objective for problem in self.problems]

    @cached_property
    def scores(self) -> LanedScores | None:
        """What scores the same clients; None where scores have no such parts, or what is deployed is up to values."""
        pure = [one for one in (problem.scores for problem in self.problems) if isinstance(one, PureScores)]
        can = len(pure) == len(self.problems) and not self.algorithm.branches_on_server
        return LanedScores(self, pure) if can else None

    def reports(self, report: Report) -> list[list[Report]]:
        """Return what every client of every run told; numbers are the same for all, since functions do not branch on
        values."""
        numbers = {name: value for name, value in report.items() if isinstance(value, float | int)}
        lanes = {name: values_of(value) for name, value in report.items() if not isinstance(value, float | int)}
        of_lanes: list[Report] = [
            {**numbers, **{name: value[row] for name, value in lanes.items()}} if lanes else numbers
            for row in range(len(self.problems) * self.num_clients)
        ]
        return [of_lanes[first : first + self.num_clients] for first in range(0, len(of_lanes), self.num_clients)]

    def _of_run(self, params: Params, run: int) -> Params:
        first = run * self.num_clients
        return {name: value[first : first + self.num_clients] for name, value in params.items()}


def _serves(setup: Setup) -> bool:
    """Say whether the data of all clients of this rank are alike, and what clients do can be given lanes."""
    data, algorithm = setup.problem.client_data, setup.algorithm
    kinds = {
        tuple((name, value.shape, value.dtype) for name, value in data.data(client, 0).items())
        for client in data.clients
    }
    if len(kinds) != 1:
        return False
    # the runs of a pack ask again and again
    key = (type(setup.problem.objective), content(algorithm, leave_out=algorithm.server_settings), *kinds)
    if key not in _known:
        _known[key] = _has_the_bits_of_one(setup)
    return _known[key]


def _has_the_bits_of_one(setup: Setup) -> bool:
    """Try the first round of one client both ways: not all functions of torch can be given lanes."""
    objective, client_data, algorithm = setup.problem.objective, setup.problem.client_data, setup.algorithm
    client, shared = client_data.clients.start, objective.init_shared()
    server = algorithm.init_server(shared, setup.server_optimizer)
    message, data = Downlink(algorithm, server, 0).to(client), client_data.data(client, 0)
    state, draws = algorithm.init_client(shared, objective.init_local(client)), algorithm.draws(objective, client, 0, 1)
    alone = algorithm.client(objective, message, state, data, draws)
    one_lane = state_lanes(stack_states([state]))
    try:
        step = algorithm.client(objective, stack([message]), one_lane, stack([data]), stack([draws]))
        uplink = {name: values_of(value)[0] for name, value in step.uplink.items()}
        found = member(state_values(step.state), 0)
    except NOT_FOR_SEVERAL:
        return False
    return _bits({"": uplink, **found}) == _bits({"": alone.uplink, **alone.state})


def _bits(state: State) -> dict[tuple[str, str], bytes]:
    return {
        (group, name): value.contiguous().numpy().tobytes() for group, of in state.items() for name, value in of.items()
    }
