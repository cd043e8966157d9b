"""The virtual seconds and the bytes of a run without its arithmetic: no client computes, and θ never moves.

What is asked, lost and sent follows from names and shapes, from the network and from compute times: every number is the
one that the run itself would record, as long as it does not diverge or end early.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ppfl.core.agree import SharedUserError
from ppfl.engine.asynchronous import Dispatcher
from ppfl.engine.clock import Answer, refuse_endless
from ppfl.engine.wire import answers_after
from ppfl.interfaces.network import Fate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ppfl.core.types import State
    from ppfl.engine.clock import RoundOnClock
    from ppfl.engine.setup import Setup
    from ppfl.interfaces.links import Sizes
    from ppfl.interfaces.network import Trip


@dataclass(frozen=True)
class Work:
    """One client at work: when it was asked, how long it took, and what became of it."""

    client: int
    began: float
    trip: Trip
    ended: float
    """When the server went on: at the arrival, at the end of the round, or when it gave the job up."""
    answer: Answer | None = None
    """What it was sent in the end, or heard of its neighbours; None where nothing was."""


def _since(began: float, answer: Answer | None) -> Answer | None:
    """Return an answer of a round on the clock of the run."""
    return None if answer is None else Answer(began + answer.began, answer.seconds)


@dataclass
class Timing:
    """Sums over the rounds so far, asynchronously over arrivals."""

    virtual_seconds: float = 0.0
    uplink_bytes: int = 0
    downlink_bytes: int = 0
    lost_uplinks: int = 0
    silent_rounds: int = 0
    work: list[Work] = field(default_factory=list)
    """Of this round, or since the arrival before."""

    def count_round(self, setup: Setup, on_clock: RoundOnClock, sizes: dict[int, Sizes]) -> None:
        """Count one round."""
        began, self.virtual_seconds = self.virtual_seconds, self.virtual_seconds + on_clock.seconds
        received = frozenset(sizes)
        if answers_after(setup.algorithm):
            received = on_clock.arrived if on_clock.is_heard else frozenset()
        self.downlink_bytes += sum(sizes[client].down for client in received)
        self.uplink_bytes += sum(sizes[client].up for client in on_clock.arrived)
        self.lost_uplinks += on_clock.num_lost
        self.silent_rounds += not on_clock.is_heard
        ended = began + on_clock.waited
        self.work = [
            Work(client, began, trip, ended, _since(began, on_clock.answers.get(client)))
            for client, trip in on_clock.trips.items()
        ]


COUNTED = ("virtual_seconds", "uplink_bytes", "downlink_bytes", "lost_uplinks", "silent_rounds")
"""What of it are series."""


def timings(setup: Setup) -> Iterator[Timing]:
    """Yield the sums after every round, asynchronously after every arrival; one object, which goes on.

    Raises SharedUserError for runs whose order is that of real messages, or of a log.
    """
    if setup.asynchronous is None:
        return _of_rounds(setup)
    if setup.asynchronous.engine == "messages":
        raise SharedUserError("asynchronous.engine: 'virtual': how long real messages take is known when they are sent")
    if setup.replay is not None:
        raise SharedUserError("asynchronous.replay: null: the times of a replay are those of its log")
    return _of_arrivals(setup)


def series(setup: Setup) -> dict[str, np.ndarray]:
    """Return {name: (rounds + 1,)}: the sums before the first round and after each, and their numbers."""
    rows = [(0, 0.0, 0, 0, 0, 0)]
    for number, found in enumerate(timings(setup), start=1):
        rows.append((number, *(getattr(found, name) for name in COUNTED)))
    return {name: np.array(column) for name, column in zip(("round", *COUNTED), zip(*rows, strict=True), strict=True)}


def _of_rounds(setup: Setup) -> Iterator[Timing]:
    found, server = Timing(), _first_server(setup)
    for round in range(setup.num_rounds):
        cohort = setup.cohort(round)
        on_clock = setup.on_clock(server, cohort, round)
        found.count_round(setup, on_clock, setup.sizes_of(server, cohort, round))
        if setup.algorithm.branches_on_server:
            # what it sends in the next round is up to its coins, which the step of the server passes on
            sent = setup.algorithm.uplink_like(server)
            server = setup.algorithm_at(round).server(server, sent, setup.server_optimizer_at(round), round)
        yield found


def _first_server(setup: Setup) -> State:
    return setup.algorithm.init_server(setup.problem.objective.init_shared(), setup.server_optimizer)


@dataclass(frozen=True, slots=True)
class _Job:
    version: int
    sizes: Sizes
    began: float
    trip: Trip | None
    fate: Fate


class Arrivals:
    """The queue of events of `ppfl.engine.virtual_clock`, without what is computed between them."""

    def __init__(self, setup: Setup) -> None:
        self._setup, self._server = setup, _first_server(setup)
        self._dispatcher = Dispatcher(setup.cohort)
        self._num_jobs = [0] * setup.problem.client_data.num_clients
        self._events: list[tuple[float, int]] = []
        self._jobs: dict[int, _Job] = {}
        self.version = 0
        """Steps that the server has taken."""
        self._buffered: list[int] = []
        self.found = Timing()
        for client in self._dispatcher.starters:
            self._dispatch(client, 0.0)

    def arrive(self) -> None:
        """Go on to the next arrival."""
        found, self.found.work, num_lost = self.found, [], 0
        while True:
            now, client = heapq.heappop(self._events)
            job = self._jobs.pop(client)
            if job.trip is not None:
                found.work.append(Work(client, job.began, job.trip, now))
                found.downlink_bytes += job.sizes.down
            if job.fate == Fate.ARRIVED:
                break
            found.lost_uplinks += job.fate != Fate.AWAY
            num_lost += 1
            refuse_endless(num_lost, self._setup.cohort.size)
            self._dispatch(self._dispatcher.next(client), now)
        found.virtual_seconds, found.uplink_bytes = now, found.uplink_bytes + job.sizes.up
        self._take(client, job)
        self._dispatch(self._dispatcher.next(client), now)

    def _take(self, client: int, job: _Job) -> None:
        """Count versions."""
        # a method of one's own may send messages whose shapes depend on the version
        rules = self._setup.asynchronous
        assert rules is not None
        if rules.max_staleness is not None and self.version - job.version > rules.max_staleness:
            return
        # a rule has one vector of each client in its buffer, the mean all that arrive
        if self._setup.adds_up or client not in self._buffered:
            self._buffered.append(client)
        if len(self._buffered) >= rules.buffer:
            self.version, self._buffered = self.version + 1, []

    def _dispatch(self, client: int, now: float) -> None:
        number = self._num_jobs[client]
        self._num_jobs[client] += 1
        sizes = self._setup.sizes_of(self._server, [client], self.version)[client]
        trip, seconds, fate = self._setup.clock.job(client, number, sizes)
        self._jobs[client] = _Job(self.version, sizes, now, trip, fate)
        heapq.heappush(self._events, (now + seconds, client))


def _of_arrivals(setup: Setup) -> Iterator[Timing]:
    arrivals = Arrivals(setup)
    for _ in range(setup.num_rounds):
        arrivals.arrive()
        yield arrivals.found
